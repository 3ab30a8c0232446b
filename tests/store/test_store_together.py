"""Several calls in one transaction: all of what they write or, of one that refuses, nothing."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from engine.config import Config
from engine.errors import EntryExists, IllegalTransition, NoSpace, UnknownEntry
from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry
from engine.model.states import Event, State
from engine.store.state_store import StateStore


def entry(name: str, **fields: Any) -> DownloadEntry:
    return DownloadEntry(id=name, sources=("http://h/x",), **fields)


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    return StateStore.open(str(tmp_path), Config(map_bytes=1 << 20), FileSystem(), now=1.0)


def test_all_of_a_group_is_there_after_it_and_it_reads_what_it_wrote(store: StateStore) -> None:
    def add_and_start(name: str) -> State:
        added = store.add(entry(name))
        store.transition(name, Event.START, epoch=added.epoch, now=2.0)
        found = store.get(name)
        assert found is not None
        return found.state

    calls = [partial(add_and_start, f"e{number}") for number in range(20)]
    assert store.together(calls) == [State.IN_PROGRESS] * 20
    assert store.counts()[State.IN_PROGRESS] == 20
    store.close()


def test_one_that_refuses_changes_nothing_and_the_others_do(store: StateStore) -> None:
    store.add(entry("there"))

    def half() -> None:
        store.add(entry("half"))
        store.transition("half", Event.COMPLETE, epoch=1, now=2.0)

    calls: list[Callable[[], Any]] = [
        partial(store.add, entry("a")),
        half,
        partial(store.add, entry("there")),
        partial(store.update, "nobody", 1, title="x"),
        partial(store.add, entry("b")),
    ]
    first, illegal, exists, unknown, last = store.together(calls)
    assert first.id == "a"
    assert last.id == "b"
    assert isinstance(illegal, IllegalTransition)
    assert isinstance(exists, EntryExists)
    assert isinstance(unknown, UnknownEntry)
    assert [found.id for found in store.list()] == ["there", "a", "b"]
    store.close()


def test_a_group_that_fills_the_map_grows_it_and_runs_again(store: StateStore) -> None:
    calls = [partial(store.add, entry(f"e{number}", title="t" * 4000)) for number in range(400)]
    results = store.together(calls)
    assert [found.id for found in results] == [f"e{number}" for number in range(400)]
    assert [found.sequence for found in store.list(limit=500)] == list(range(1, 401))
    store.close()


def test_a_full_disk_is_everybodys_trouble(store: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(work: object) -> None:
        raise NoSpace("full")

    with monkeypatch.context() as patch:
        patch.setattr(store._environment, "write", full)
        with pytest.raises(NoSpace):
            store.together([lambda: 1, lambda: 2])
    assert store.together([lambda: 1]) == [1]
    store.close()


def test_a_group_makes_one_group_of_suspects(store: StateStore) -> None:
    """The log keeps the last 64 transactions, however many files share each."""
    from engine.model.records import PartPhase, PartRecord
    from engine.store.state_store import ChunkCommit

    def whole(name: str) -> None:
        store.add(entry(name))
        record = PartRecord(
            folder="/f", part_name=name, final_name=name, length=5, chunk_bytes=1024, phase=PartPhase.ACTIVE
        )
        store.reset_part(name, 1, record)
        commit = ChunkCommit(
            id=name, epoch=1, generation=1, chunks=((0, bytes(32), 5),), bit_count=1, synced=True, boot_id=""
        )
        store.commit_chunks([commit])

    for at in range(0, 200, 50):
        store.together([partial(whole, f"e{number}") for number in range(at, at + 50)])
    assert {found.id for found in store.suspects()} == {f"e{number}" for number in range(200)}
    store.close()
