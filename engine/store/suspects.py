"""The suspect log: the chunks of the last commits, which a lying disk may have lost in a power cut (D23).

One value a commit group; its key holds the group's number and bytes, so that the window is kept without reading values.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

import msgspec

from engine.config import GIB
from engine.store.codec import Table, decode, encode
from engine.store.txn import Txn

GROUPS_KEPT: Final = 64
BYTES_KEPT: Final = 1 * GIB
_KEY: Final = struct.Struct(">QQ")


class SuspectLine(msgspec.Struct, frozen=True, array_like=True):
    """The chunks of one part in one group, as runs ``(first, count)``."""

    id: str
    part_index: int
    generation: int
    runs: tuple[tuple[int, int], ...]


class SuspectGroup(msgspec.Struct, frozen=True, array_like=True):
    """What one commit made durable."""

    lines: tuple[SuspectLine, ...]


class Suspects(NamedTuple):
    """Chunks of one part, in order, to be hashed again before they are believed after a power cut."""

    id: str
    part_index: int
    generation: int
    indexes: list[int]


class _Group:
    """What one transaction adds, whoever shares it; written when it ends."""

    def __init__(self, txn: Txn) -> None:
        self._txn = txn
        self._lines: list[SuspectLine] = []
        self._size = 0

    def add(self, lines: Iterable[SuspectLine], size: int) -> None:
        self._lines += lines
        self._size += size

    def __call__(self) -> None:
        append(self._txn, tuple(self._lines), self._size)


def collect(txn: Txn, lines: Iterable[SuspectLine], size: int) -> None:
    """Add lines of ``size`` bytes to the transaction's one group."""
    group = txn.at_end.setdefault("suspects", _Group(txn))
    assert isinstance(group, _Group)  # noqa: S101  # the key is this module's
    group.add(lines, size)


def append(txn: Txn, lines: tuple[SuspectLine, ...], size: int) -> None:
    """Add a group of ``size`` bytes; the oldest fall out beyond 64 groups or 1 GiB, never the newest."""
    kept = [_KEY.unpack(key) for key in txn.keys(Table.SUSPECTS)]
    number = kept[-1][0] + 1 if kept else 1
    kept.append((number, size))
    total = sum(group_bytes for _, group_bytes in kept)
    while len(kept) > 1 and (len(kept) > GROUPS_KEPT or total > BYTES_KEPT):
        oldest = kept.pop(0)
        total -= oldest[1]
        txn.discard(Table.SUSPECTS, _KEY.pack(*oldest))
    txn.put(Table.SUSPECTS, _KEY.pack(number, size), encode(SuspectGroup(lines)))


def read(txn: Txn) -> list[Suspects]:
    """All chunks in the log, each part and generation once; a damaged group is noted."""
    found: dict[tuple[str, int, int], set[int]] = {}
    for _, payload in txn.walk(Table.SUSPECTS):
        if payload is None:
            continue
        for line in decode(payload, SuspectGroup).lines:
            indexes = found.setdefault((line.id, line.part_index, line.generation), set())
            for first, count in line.runs:
                indexes.update(range(first, first + count))
    return [Suspects(*part, sorted(indexes)) for part, indexes in found.items()]


def runs_of(indexes: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Sorted numbers as runs ``(first, count)``."""
    runs: list[tuple[int, int]] = []
    for index in indexes:
        if runs and sum(runs[-1]) == index:
            runs[-1] = (runs[-1][0], runs[-1][1] + 1)
        else:
            runs.append((index, 1))
    return tuple(runs)
