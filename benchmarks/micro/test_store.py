"""The store: what one durable transaction costs."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.micro.timing import Timing
from engine.config import DEFAULT_CONFIG, MIB
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry, PartPhase, PartRecord
from engine.store.state_store import ChunkCommit, StateStore

BIT_COUNT = 1 << 20


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    """A store with one entry of a million chunks, none of them held."""
    opened = StateStore.open(str(tmp_path / "library"), DEFAULT_CONFIG, FileSystem(), now=time.time())
    opened.add(DownloadEntry(id="big", sources=("http://127.0.0.1/big",)))
    part = PartRecord(
        folder=str(tmp_path),
        part_name="p",
        final_name="f",
        length=BIT_COUNT * MIB,
        chunk_bytes=MIB,
        phase=PartPhase.ACTIVE,
    )
    opened.reset_part("big", 1, part)
    yield opened
    opened.close()


@pytest.mark.parametrize("count", [1, 64])
def test_commit_chunks(benchmark: Timing, store: StateStore, count: int) -> None:
    firsts = itertools.count(0, count)

    def commit() -> int:
        first = next(firsts)
        chunks = tuple((index, bytes(32), MIB) for index in range(first, first + count))
        group = ChunkCommit(
            id="big", epoch=1, generation=1, chunks=chunks, bit_count=BIT_COUNT, synced=True, boot_id=""
        )
        (part,) = store.commit_chunks([group])
        assert part is not None
        return part.chunks_done

    benchmark(commit)

    assert store.parts("big")[0].chunks_done == next(firsts)


def test_add_entry(benchmark: Timing, store: StateStore) -> None:
    numbers = itertools.count()

    added = benchmark(lambda: store.add(DownloadEntry(id=f"e{next(numbers)}", sources=("http://127.0.0.1/e",))))

    assert store.get(added.id) == added


def test_get_entry(benchmark: Timing, store: StateStore) -> None:
    assert benchmark(store.get, "big").id == "big"


def test_read_bitmap_of_a_million(benchmark: Timing, store: StateStore) -> None:
    assert benchmark(store.bitmap, "big", 0, BIT_COUNT).held == 0
