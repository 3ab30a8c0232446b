"""Health and usage are added up right, and what a look over many entries reads is what it has to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.control.health import download_health
from engine.files.filesystem import FileSystem
from engine.model.records import Attempt, DownloadEntry, PartPhase, PartRecord
from engine.model.states import Event, Reason, State
from engine.store.state_store import StateStore
from engine.store.usage import PAGE_ENTRIES
from tests.support.library import SMALL


@pytest.fixture
def store(tmp_path: Path) -> Iterator[StateStore]:
    opened = StateStore.open(str(tmp_path / "library"), SMALL, FileSystem(), now=0.0)
    yield opened
    opened.close()


def entry_of(number: int, **fields: object) -> DownloadEntry:
    return DownloadEntry(id=f"e{number}", sources=("http://127.0.0.1/x",), **fields)  # type: ignore[arg-type]


def test_an_empty_store_has_no_rates(store: StateStore) -> None:
    health = download_health(store, 1000.0)
    assert (health.entries, health.success_rate, health.retry_rate) == (0, None, None)
    assert (health.oldest_waiting_s, health.active_s_mean, health.disk_bytes) == (None, None, {})


@pytest.mark.parametrize("count", [1, PAGE_ENTRIES - 1, PAGE_ENTRIES, PAGE_ENTRIES + 1, 2 * PAGE_ENTRIES])
def test_each_entry_is_counted_once(store: StateStore, count: int) -> None:
    store.add_many([entry_of(number, scope="me" if number % 2 else "") for number in range(count)])
    health = download_health(store, 0.0)
    assert health.counts["pending"] == health.entries == count
    assert len({held.entry.id for held in store.usage.pages()}) == count


def test_bug_17_waiting_does_not_count_as_work(store: StateStore) -> None:
    """Origin bug 17: the average completion time included the time in the queue and paused."""
    attempts = (
        Attempt(number=1, started_at=1000.0, ended_at=1010.0, bytes_fetched=70),
        Attempt(number=2, started_at=9000.0, ended_at=9020.0, bytes_fetched=50),
        Attempt(number=3, started_at=9500.0, ended_at=9400.0, bytes_fetched=0),  # the clock was set back
    )
    added = store.add(entry_of(1, attempts=attempts, attempt_count=3, created_at=0.0, bytes_total=100, scope="me"))
    part = PartRecord(folder="/f", part_name=".oe-x-1.part", final_name="x", chunk_bytes=1024, length=100)
    store.put_part(added.id, added.epoch, part)
    store.transition(added.id, Event.START, epoch=added.epoch, now=0.0)
    store.transition(added.id, Event.FAIL, epoch=added.epoch, now=0.0)
    health = download_health(store, 10_000.0)
    assert (health.success_rate, health.retry_rate) == (0.0, 1.0)
    assert health.active_s_mean is None  # of completed ones only
    assert (health.bytes_fetched, health.bytes_wasted) == (120, 120)
    assert health.disk_bytes == {}


def test_what_waits_longest(store: StateStore) -> None:
    store.add(entry_of(1, updated_at=500.0))
    store.add(entry_of(2, updated_at=300.0))
    assert download_health(store, 1000.0).oldest_waiting_s == 700.0
    assert download_health(store, 0.0).oldest_waiting_s == 0.0  # the clock was set back


def test_unfinished_files_take_their_whole_length(store: StateStore) -> None:
    added = store.add(entry_of(1, scope="me"))
    part = PartRecord(
        folder="/f", part_name=".oe-x-1.part", final_name="x", chunk_bytes=1024, length=5000, phase=PartPhase.ACTIVE
    )
    store.put_part(added.id, added.epoch, part)
    assert store.usage.of_scope("me") == {"e1": 5000}
    assert store.usage.of_scope("you") == {}
    assert download_health(store, 0.0).disk_bytes == {"me": 5000}


def test_parked_entries_are_found_by_their_reason(store: StateStore) -> None:
    for number, reason in enumerate((Reason.DISK, Reason.USER, Reason.DISK)):
        added = store.add(entry_of(number))
        store.transition(added.id, Event.PAUSE, epoch=added.epoch, now=0.0, reason=reason)
    assert [held.entry.id for held in store.usage.parked(Reason.DISK)] == ["e0", "e2"]
    assert {held.entry.state for held in store.usage.parked(Reason.USER)} == {State.PAUSED}


def test_counters_are_added_to(store: StateStore) -> None:
    store.usage.count(bytes_reclaimed=10, files_removed=1)
    store.usage.count(bytes_reclaimed=5, files_removed=2)
    health = download_health(store, 0.0)
    assert (health.bytes_reclaimed, health.files_removed) == (15, 3)


def test_the_time_of_reading_only_goes_forward(store: StateStore) -> None:
    store.add(entry_of(1))
    store.usage.touch({"e1": 50.0, "gone": 60.0})
    store.usage.touch({"e1": 40.0})
    found = store.get("e1")
    assert found is not None
    assert found.last_read_at == 50.0
