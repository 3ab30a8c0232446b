"""What an entry has beside its record, while that is changed: its place in the queue, and its path for itself.

A change that is refused or given up half-way must leave neither behind wrong: an entry that is PENDING on record and
has no place would wait for ever, and two that run for one path would race for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from engine.control.runs import Runs
from engine.errors import InvalidRequest, StoreError
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.store.state_store import StateStore
from engine.transfer.targets import Targets


@contextmanager
def place_kept(runs: Runs, store: StateStore, entry_id: str) -> Iterator[None]:
    """A block that stops the entry to change it, and cannot: it goes on as the store has it."""
    kept = runs.kept(entry_id)
    try:
        yield
    except BaseException:
        if kept is not None and runs.kept(entry_id) is None:
            with suppress(StoreError):  # the error at hand is the one to tell; then reconciling finds the entry
                entry = store.get(entry_id)
                if entry is not None and entry.state is State.PENDING:
                    runs.take_up(entry, kept)
        raise


@contextmanager
def aimed(runs: Runs, targets: Targets, entries: Sequence[DownloadEntry]) -> Iterator[None]:
    """A block that has the entries run: their paths are theirs from its beginning, so that nobody else takes one while
    it waits; of those that do not run or wait behind it, no longer. Raises InvalidRequest."""
    for entry in entries:
        check_target_free(targets, entry)
    claimed = [entry for entry in entries if not entry.destination_is_folder and runs.kept(entry.id) is None]
    for entry in claimed:
        targets.claim(entry.destination, entry.id)
    try:
        yield
    finally:
        for entry in claimed:
            if runs.kept(entry.id) is None:
                targets.release(entry.id)


def check_target_free(targets: Targets, entry: DownloadEntry) -> None:
    """Two entries that run must not aim at one path: only one could have it (H3). Raises InvalidRequest."""
    holder = None if entry.destination_is_folder else targets.holder(entry.destination)
    if holder not in {None, entry.id}:
        raise InvalidRequest(f"{entry.destination} is the destination of {holder}, which is running")
