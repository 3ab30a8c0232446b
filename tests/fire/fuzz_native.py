"""Fuzz target for the compiled core: any arguments, also impossible ones, against the plain-Python twin.

It imports nothing of the engine but ``engine.native``.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable

from engine import native
from tests.twin import twin_parent_cv, twin_root_from_cvs, twin_root_hash, twin_subtree_cv

_NUMBERS = struct.Struct("<HHHh")
_EDGES = (-(2**63) - 1, -1, 0, 1, 7, 8, 63, 64, 65, 2**31, 2**32, 2**54, 2**63 - 1, 2**63, 2**64)
LEAF = native.LEAF_BYTES


class Given:
    """Numbers and bytes out of one input."""

    def __init__(self, data: bytes) -> None:
        head = data[: _NUMBERS.size].ljust(_NUMBERS.size, b"\0")
        self._numbers = list(_NUMBERS.unpack(head))
        self.rest = data[_NUMBERS.size :]

    def number(self) -> int:
        """Mostly a small one, sometimes one at an edge."""
        value = self._numbers.pop()
        return _EDGES[value % len(_EDGES)] if value % 5 == 0 else value % 700


def _bit_run(bits: bytes, bit_count: int, start: int, value: bool, limit: int) -> tuple[int, int]:
    known = [bool(bits[i >> 3] >> (i & 7) & 1) is value for i in range(bit_count)]
    first = next((i for i in range(start, bit_count) if known[i]), bit_count)
    length = 0
    while first + length < bit_count and known[first + length] and length < limit:
        length += 1
    return first, length


def _next_run(given: Given) -> None:
    bits, start, count, limit = given.rest, given.number(), given.number(), given.number()
    fits = 0 <= count <= 8 * len(bits) and 0 <= start <= count and 1 <= limit < 2**63
    for value in (False, True):
        try:
            found = native.bitmap_next_run(bits, count, start, value, limit)
        except ValueError:
            assert not fits
            continue
        assert fits
        assert found == _bit_run(bits, count, start, value, limit)


def _set_clear(given: Given) -> None:
    first, count = given.number(), given.number()
    bits = bytearray(given.rest)
    fits = first >= 0 and count >= 0 and first + count <= 8 * len(bits)
    for call, value in ((native.bitmap_set, True), (native.bitmap_clear, False)):
        number = int.from_bytes(bits, "little")
        try:
            call(bits, first, count)
        except ValueError:
            assert not fits
            continue
        assert fits
        mask = ((1 << count) - 1) << first
        wanted = number | mask if value else number & ~mask
        assert int.from_bytes(bits, "little") == wanted
        assert native.bitmap_count(bits, 8 * len(bits)) == wanted.bit_count()


def _hashes(given: Given) -> None:
    counter, cut = given.number(), given.number()
    data = given.rest * (1 + cut % 9)
    assert native.root_hash(data) == twin_root_hash(data)
    leaves = -(-len(data) // LEAF)
    fits = len(data) > 0 and 0 <= counter < 2**54 and (counter == 0 or leaves <= counter & -counter)
    try:
        found = native.subtree_cv(data, counter)
    except ValueError:
        assert not fits
    else:
        assert fits
        assert found == twin_subtree_cv(data, counter)


def _parents(given: Given) -> None:
    data = given.rest
    left, right = data[:32], data[32:64]
    try:
        found = native.parent_cv(left, right, given.number() % 2 == 0)
    except ValueError:
        assert (len(left), len(right)) != (32, 32)
    else:
        assert found in (twin_parent_cv(left, right, True), twin_parent_cv(left, right, False))
    try:
        root = native.root_from_cvs(data)
    except ValueError:
        assert len(data) < 64 or len(data) % 32
    else:
        assert root == twin_root_from_cvs([data[at : at + 32] for at in range(0, len(data), 32)])


def _seals(given: Given) -> None:
    length, offset, counter, threads = given.number(), given.number(), given.number(), given.number()
    pool = native.BufferPool(2, LEAF * 4)
    buffer = pool.acquire()
    assert buffer is not None
    data = (given.rest * LEAF)[: LEAF * 4].ljust(LEAF * 4, b"\0")
    with memoryview(buffer) as view:
        view[:] = data
    file = os.memfd_create("fuzz")
    try:
        with native.Sealer(1 + threads % 2, 2) as sealer:
            try:
                sealer.submit(7, file, buffer, length, offset, counter, counter == 0 and length % 2 == 0)
            except ValueError:
                results = sealer.close()
                assert results == []
            else:
                assert 0 < length <= len(data)
                ((ticket, error, digest, _),) = sealer.close()
                assert ticket == 7
                assert error != 0 or os.pread(file, length, offset) == data[:length]
                roots = (twin_root_hash(data[:length]), twin_subtree_cv(data[:length], counter))
                assert digest in roots
    finally:
        os.close(file)
    buffer.release()
    assert pool.free == pool.count


_CALLS: tuple[Callable[[Given], None], ...] = (_next_run, _set_clear, _hashes, _parents, _seals)


def core(data: bytes) -> None:
    """The compiled core: a ValueError exactly for what is out of range, else what the twin says."""
    if data:
        _CALLS[data[0] % len(_CALLS)](Given(data[1:]))
