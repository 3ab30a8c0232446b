"""Promises of space and readers of files: the rules themselves, without an engine."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.control.readers import Readers
from engine.control.space import Evictable, by_age
from engine.errors import NoSpace
from engine.files.filesystem import FileSystem
from engine.transfer.reservations import BLOCK_BYTES, Reservations


class Disk(FileSystem):
    """A file system of ``size`` bytes; ``written``: what the files on it take, by their paths."""

    def __init__(self, size: int, device: int = 1) -> None:
        self.size = size
        self.device = device
        self.written: dict[str, int] = {}

    def stat_fd(self, fd: int) -> os.stat_result:
        return SimpleNamespace(st_dev=self.device + fd)  # type: ignore[return-value]

    def free_bytes(self, fd: int) -> int:
        return self.size - sum(self.written.values())

    def stat_path(self, path: str, *, follow: bool = True) -> Any:
        taken = self.written.get(path)
        return None if taken is None else SimpleNamespace(st_blocks=taken // BLOCK_BYTES)


def test_what_is_promised_to_one_is_not_there_for_another() -> None:
    disk, promised = Disk(10_240), Reservations()
    promised.take("a", disk, 0, "/a", 6144, 0)
    with pytest.raises(NoSpace, match="6144 promised"):
        promised.take("b", disk, 0, "/b", 5120, 0)
    promised.take("b", disk, 0, "/b", 4096, 0)
    promised.release("a")
    promised.take("c", disk, 0, "/c", 6144, 0)


def test_another_file_system_is_another_matter() -> None:
    disk, promised = Disk(10_240), Reservations()
    promised.take("a", disk, 0, "/a", 10_240, 0)
    promised.take("b", disk, 1, "/b", 10_240, 0)
    assert promised.outstanding(disk, 1) == promised.outstanding(disk, 2) == 10_240


def test_the_reserve_is_kept() -> None:
    disk, promised = Disk(10_240), Reservations()
    with pytest.raises(NoSpace):
        promised.take("a", disk, 0, "/a", 10_000, 1024)
    assert promised.outstanding(disk, 1) == 0


def test_what_is_written_is_not_counted_twice() -> None:
    disk, promised = Disk(10_240), Reservations()
    promised.take("a", disk, 0, "/a", 8192, 0)
    disk.written["/a"] = 0
    promised.made("a")
    assert promised.outstanding(disk, 1) == 8192
    disk.written["/a"] = 6144
    assert promised.outstanding(disk, 1) == 2048
    promised.take("b", disk, 0, "/b", 2048, 0)
    disk.written["/a"] = 8192
    assert promised.outstanding(disk, 1) == 2048
    del disk.written["/a"]  # it has its final name
    assert promised.outstanding(disk, 1) == 2048


def test_what_is_said_to_be_written_is_not_looked_at() -> None:
    disk, promised = Disk(10_240), Reservations()
    promised.take("a", disk, 0, "/a", 8192, 0)
    disk.written["/a"] = 0
    promised.made("a")
    promised.written("a")
    assert promised.outstanding(disk, 1) == 0


def test_a_file_that_was_given_its_name_is_owed_nothing() -> None:
    disk, promised = Disk(10_240), Reservations()
    promised.resume("a", 1, "/a", 8192)
    assert promised.outstanding(disk, 1) == 0


@given(
    st.lists(
        st.tuples(st.sampled_from("abcdef"), st.sampled_from(["take", "write", "release"]), st.integers(0, 12)),
        max_size=60,
    )
)
def test_promises_never_exceed_the_disk(steps: list[tuple[str, str, int]]) -> None:
    """Whatever is begun, written and ended in whatever order: every promise that stands can be kept."""
    disk, promised = Disk(20 * BLOCK_BYTES), Reservations()
    lengths: dict[str, int] = {}
    for name, what, blocks in steps:
        if what == "take" and name not in lengths and name not in disk.written:
            try:
                promised.take(name, disk, 0, name, blocks * BLOCK_BYTES, 0)
            except NoSpace:
                continue
            lengths[name] = blocks * BLOCK_BYTES
            disk.written[name] = 0
            promised.made(name)
        elif what == "write" and name in lengths:
            disk.written[name] = min(lengths[name], disk.written[name] + blocks * BLOCK_BYTES)
        elif what == "release" and name in lengths:
            promised.release(name)
            del lengths[name]
        owed = sum(length - disk.written[name] for name, length in lengths.items())
        assert promised.outstanding(disk, 1) == owed
        assert owed <= disk.free_bytes(0)


def test_readers_are_counted() -> None:
    now = 100.0
    readers = Readers(lambda: now)
    with readers.hold("a"):
        now = 101.0
        with readers.hold("a"):
            pass
        assert readers.held("a")
        assert readers.read_at("a") == 101.0
        now = 102.0
    assert not readers.held("a")
    assert readers.take_read() == {"a": 102.0}
    assert readers.take_read() == {}


def test_a_reader_that_raises_holds_nothing() -> None:
    readers = Readers(lambda: 0.0)
    with pytest.raises(ValueError, match="oops"), readers.hold("a"):
        raise ValueError("oops")
    assert not readers.held("a")


def test_what_was_used_least_recently_is_first() -> None:
    items = [Evictable(name, "", "", 1, at, None) for name, at in (("c", 3.0), ("b", 1.0), ("a", 1.0))]
    assert [item.id for item in by_age(items)] == ["a", "b", "c"]
