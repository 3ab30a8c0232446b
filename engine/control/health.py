"""How the downloads of a store are doing, added up from their records: one pass over all of them in a worker thread,
some ten microseconds an entry, so that nothing has to be kept up to date while they run.
"""

from __future__ import annotations

import msgspec

from engine.model.states import State
from engine.store.state_store import StateStore
from engine.store.usage import EntryLine, Held


class DownloadHealth(msgspec.Struct, frozen=True, kw_only=True):
    """Rates are 0..1, or None where there is nothing to count.

    ``counts``: entries by state. ``success_rate``: completed ones among those that completed or failed.
    ``retry_rate``: those that needed more than one attempt among those that had one. ``bytes_wasted``: fetched by the
    attempts on record (the last ``attempts_kept`` of each entry) and thrown away. ``bytes_reclaimed``: what clean-up
    gave back to the disk since the store was made. ``oldest_waiting_s``: how long the PENDING entry that waits longest
    does. ``active_s_mean``: what the attempts of a completed entry took, without the time that it waited or was paused.
    ``disk_bytes``: taken by finished and unfinished files, by scope. ``quota_bytes``: what they may take, of the scopes
    for which that was set.
    """

    counts: dict[str, int]
    entries: int
    success_rate: float | None
    retry_rate: float | None
    bytes_fetched: int
    bytes_wasted: int
    bytes_reclaimed: int
    files_removed: int
    oldest_waiting_s: float | None
    active_s_mean: float | None
    disk_bytes: dict[str, int]
    quota_bytes: dict[str, int]


def download_health(store: StateStore, now: float) -> DownloadHealth:
    """Blocking: runs in a worker thread."""
    sums = _Sums()
    for held in store.usage.pages():
        sums.add(held)
    reclaimed = store.usage.counters()
    ended = sums.counts[State.COMPLETED.value] + sums.counts[State.FAILED.value]
    return DownloadHealth(
        counts=sums.counts,
        entries=sum(sums.counts.values()),
        success_rate=sums.counts[State.COMPLETED.value] / ended if ended else None,
        retry_rate=sums.retried / sums.started if sums.started else None,
        bytes_fetched=sums.fetched,
        bytes_wasted=sums.wasted,
        bytes_reclaimed=reclaimed.bytes_reclaimed,
        files_removed=reclaimed.files_removed,
        oldest_waiting_s=None if sums.waiting_since is None else max(0.0, now - sums.waiting_since),
        active_s_mean=sums.active_s / sums.timed if sums.timed else None,
        disk_bytes=sums.disk,
        quota_bytes=store.groups.quotas(),
    )


class _Sums:
    """What is added up over the entries."""

    def __init__(self) -> None:
        self.counts = {state.value: 0 for state in State}
        self.started = self.retried = self.fetched = self.wasted = self.timed = 0
        self.active_s = 0.0
        self.waiting_since: float | None = None
        self.disk: dict[str, int] = {}

    def add(self, held: Held) -> None:
        """One more entry."""
        entry = held.entry
        self.counts[entry.state.value] = self.counts.get(entry.state.value, 0) + 1
        self.started += entry.attempt_count > 0
        self.retried += entry.attempt_count > 1
        taken = held.bytes_taken
        if taken:
            self.disk[entry.scope] = self.disk.get(entry.scope, 0) + taken
        if entry.state is State.PENDING and (self.waiting_since is None or entry.updated_at < self.waiting_since):
            self.waiting_since = entry.updated_at
        self._add_attempts(entry, sum(part.bytes_done for part in held.parts))

    def _add_attempts(self, entry: EntryLine, held_bytes: int) -> None:
        fetched = 0
        active_s = 0.0
        for attempt in entry.attempts:
            fetched += attempt.bytes_fetched
            # A clock that was set back between the two gives nothing, not less than nothing.
            active_s += max(0.0, attempt.ended_at - attempt.started_at)
        self.fetched += fetched
        if entry.state is not State.IN_PROGRESS:  # what runs has not said yet what it fetched
            self.wasted += max(0, fetched - held_bytes)
        if entry.state is State.COMPLETED and entry.attempts:
            self.timed += 1
            self.active_s += active_s
