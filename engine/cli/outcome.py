"""What became of one URL in this run, as a line for people or an object for programs."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from engine.cli.console import escape
from engine.cli.text import fault_text, rate, shown_url, size
from engine.errors import UnknownEntry
from engine.model.records import DownloadEntry, ErrorRecord, OfflineEntry, PartRecord
from engine.model.states import State

if TYPE_CHECKING:  # `list` and `show` need none of trio, which takes half of the time to start
    from engine.control.attempts import RunStats
    from engine.store.state_store import StateStore


class Outcome(msgspec.Struct, frozen=True):
    """``offline`` is there when the file is; ``error`` is None unless it failed."""

    id: str
    url: str
    state: State
    stats: RunStats
    bytes_total: int | None = None
    offline: OfflineEntry | None = None
    error: ErrorRecord | None = None

    @property
    def good(self) -> bool:
        """Whether the file is complete and what was asked for."""
        return self.offline is not None and self.error is None

    @property
    def bytes_resumed(self) -> int:
        """Trusted from before: all of a file that was complete already."""
        if self.offline is not None and self.stats.attempts == 0:
            return self.offline.size
        return self.stats.bytes_resumed

    def as_json(self) -> dict[str, object]:
        """The object of ``get --json`` (DESIGN section 7)."""
        offline, error = self.offline, self.error
        return {
            "id": self.id,
            "state": self.state.value,
            "url": self.url,
            "path": offline.path if offline else None,
            "bytes_total": offline.size if offline else self.bytes_total,
            "bytes_fetched": self.stats.bytes_fetched,
            "bytes_resumed": self.bytes_resumed,
            "blake3": offline.blake3 if offline else None,
            "seconds": round(self.stats.seconds, 3),
            "attempts": self.stats.attempts,
            "error": error_json(error),
        }

    def as_line(self) -> str:
        """The line of plain ``get``."""
        if self.state is State.CANCELLED and self.error is None:
            return f"cancelled {shown_url(self.url)}"
        if self.offline is None or self.error is not None:
            reason = fault_text(self.error) if self.error else self.state.value
            return f"failed {shown_url(self.url)}: {reason}"
        offline, stats = self.offline, self.stats
        if stats.attempts == 0:
            how = "was complete already"
        else:
            how = f"{size(stats.bytes_fetched)} in {stats.seconds:.1f} s, {rate(stats.bytes_fetched, stats.seconds)}"
        resumed = f", {size(stats.bytes_resumed)} resumed" if stats.bytes_resumed else ""
        return f"done {escape(offline.path)}  {size(offline.size)} ({how}{resumed})  blake3 {offline.blake3[:16]}…"


def error_json(error: ErrorRecord | None) -> dict[str, object] | None:
    """The ``error`` of every ``--json`` object."""
    if error is None:
        return None
    return {
        "code": error.code,
        "message": error.message,
        "status": error.status,
        "fault": error.fault,
        "advice": error.advice,
    }


def outcome_of(
    entry: DownloadEntry,
    parts: Sequence[PartRecord],
    offline: OfflineEntry | None,
    stats: RunStats,
    refused: ErrorRecord | None = None,
) -> Outcome:
    """The outcome of an entry that has ended; ``refused`` when this request failed although the entry did not."""
    complete = entry.state is State.COMPLETED
    return Outcome(
        id=entry.id,
        url=entry.url,
        state=entry.state,
        stats=stats,
        bytes_total=bytes_total(entry, parts),
        offline=offline if complete else None,
        error=refused or (None if complete else entry.last_error),
    )


def removed(entry_id: str, url: str, stats: RunStats) -> Outcome:
    """The outcome of an entry that somebody removed while it was fetched."""
    error = ErrorRecord.of(UnknownEntry(f"{entry_id} was removed while it was fetched"), time.time())
    return Outcome(id=entry_id, url=url, state=State.CANCELLED, stats=stats, error=error)


def parked(store: StateStore, entry_id: str, url: str, stats: RunStats) -> Outcome:
    """The outcome of an entry whose engine was closed before it ended: as the store has it, or PENDING when it has not
    come there yet. Raises StoreError."""
    entry = store.get(entry_id)
    if entry is None:
        return Outcome(id=entry_id, url=url, state=State.PENDING, stats=stats)
    outcome = outcome_of(entry, store.parts(entry_id), store.offline(entry_id), stats)
    return outcome if entry.state is State.FAILED else replace(outcome, error=None)  # that of an earlier attempt


def bytes_total(entry: DownloadEntry, parts: Sequence[PartRecord]) -> int | None:
    """The size as far as it is known: an unfinished entry's is that of its parts."""
    lengths = [part.length for part in parts if part.length is not None]
    if entry.bytes_total is not None or not lengths or len(lengths) < len(parts):
        return entry.bytes_total
    return sum(lengths)
