"""What a power cut may leave of a disk, by its log: everything flushed, and any part of what was not.

A case is a place in the log (so many requests were carried out) and what became of the writes that no flush covers:
``all`` of them are there, ``none``, a seeded subset (``some``), or a subset of which some are ``torn``: each sector of
512 bytes old or new. ext4's own superblock is never torn, because ext4 itself does not survive that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from tests.fire.fuse_disk import FLUSH, WRITE, Record

SECTOR: Final = 512
_SUPERBLOCK_END: Final = 2048
MODES: Final = ("all", "none", "some", "torn")


class Case(NamedTuple):
    """One crash image. ``place``: requests that were carried out."""

    place: int
    mode: str
    seed: int

    def __str__(self) -> str:
        return f"{self.place}:{self.mode}:{self.seed}"

    @classmethod
    def parse(cls, text: str) -> Case:
        """What ``str`` made."""
        place, mode, seed = text.split(":")
        return cls(int(place), mode, int(seed))


def covered_by(log: Sequence[Record]) -> list[int]:
    """For each count of requests: how many of them are durable by a flush among them."""
    covers = [0]
    for record in log:
        covers.append(max(covers[-1], record.covers) if record.kind == FLUSH else covers[-1])
    return covers


def cases(log: Sequence[Record], first: int, wanted: int, rng: random.Random) -> list[Case]:
    """As many cases as wanted, from the count ``first`` on, in the log's order: a sample of one of each kind at each
    place, or all of these and more subsets."""
    covers = covered_by(log)
    pending = [
        sum(record.kind == WRITE for record in log[covers[count] : count]) for count in range(first, len(log) + 1)
    ]
    found: list[Case] = []
    richer: list[int] = []
    for count, writes in enumerate(pending, first):
        last_of_its_kind = count == len(log) or covers[count + 1] != covers[count]
        if count == len(log) or log[count].kind == WRITE:  # a flush changes nothing: the place behind it has more acks
            found.append(Case(count, "all", 0))
        if writes and last_of_its_kind:
            found.append(Case(count, "none", 0))
        if writes:
            found.append(Case(count, "torn", rng.getrandbits(32)))
        if writes > 1:
            found.append(Case(count, "some", rng.getrandbits(32)))
            richer.append(count)
    if len(found) > wanted:
        found = rng.sample(found, wanted)
    while len(found) < wanted and richer:
        found.append(Case(rng.choice(richer), rng.choice(("some", "torn")), rng.getrandbits(32)))
    return sorted(found)


class Images:
    """Makes crash images of one log in the file ``fd``. Cases come in the log's order."""

    def __init__(self, base: bytes, log: Sequence[Record]) -> None:
        self._log = log
        self._covers = covered_by(log)
        self._durable = bytearray(base)
        self._done = 0

    def write(self, fd: int, case: Case) -> None:
        """Make the file what the disk is after this power cut."""
        covered = self._covers[case.place]
        if covered < self._done:
            raise ValueError("cases come in the log's order")
        for record in self._log[self._done : covered]:
            if record.kind == WRITE:
                self._durable[record.offset : record.offset + len(record.data)] = record.data
        self._done = covered
        os.pwrite(fd, self._durable, 0)
        for offset, data in self._left(case, self._log[covered : case.place]):
            os.pwrite(fd, data, offset)

    def _left(self, case: Case, pending: Sequence[Record]) -> Iterator[tuple[int, bytes]]:
        rng = random.Random(case.seed)
        writes = [record for record in pending if record.kind == WRITE]
        for record in writes:
            if case.mode == "all":
                yield record.offset, record.data
            elif case.mode == "some":
                if rng.random() < 0.5:
                    yield record.offset, record.data
            elif case.mode == "torn":
                yield from _torn(record, rng)


def _torn(record: Record, rng: random.Random) -> Iterator[tuple[int, bytes]]:
    """The write is there, is not, or is there in some sectors."""
    fate = rng.randrange(3)
    if fate == 0:
        return
    if fate == 1 or record.offset < _SUPERBLOCK_END:
        yield record.offset, record.data
        return
    for at in range(0, len(record.data), SECTOR):
        if rng.random() < 0.5:
            yield record.offset + at, record.data[at : at + SECTOR]
