"""What the engine tells its host. Each carries the entry's id, epoch and attempt, so that a late one can be told."""

from __future__ import annotations

import msgspec

from engine.model.lines import Line
from engine.model.records import DownloadEntry, ErrorRecord
from engine.model.states import Reason, State


class StateChanged(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """The entry is now in ``state``, durably. Never lost, in order. ``retry_at``: when it is tried again by itself;
    then ``tries`` of at most ``tries_max`` were made in a row without progress."""

    id: str
    epoch: int
    attempt: int
    previous: State | None
    state: State
    reason: Reason = Reason.NONE
    error: ErrorRecord | None = None
    retry_at: float | None = None
    tries: int = 0
    tries_max: int = 0


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag="progress"):
    """Bytes of the entry: ``bytes_done`` are durable, ``bytes_received`` came so far (never less). Newer replaces
    older."""

    id: str
    epoch: int
    attempt: int
    bytes_done: int
    bytes_received: int
    bytes_total: int | None


class Recovered(msgspec.Struct, frozen=True, kw_only=True, tag="recovered"):
    """What the start found and mended for one entry after an unclean end."""

    id: str
    epoch: int
    attempt: int
    what: str


class Removed(msgspec.Struct, frozen=True, kw_only=True, tag="removed"):
    """The entry is no more, durably; its files follow, but for the finished one when that was to be kept."""

    id: str
    epoch: int
    attempt: int
    kept_file: bool = False


class SourceBlamed(msgspec.Struct, frozen=True, kw_only=True, tag="source_blamed"):
    """A source of the entry sent wrong bytes: it is named in the record, its ``chunks`` are fetched from another, and
    it is asked no more. ``url`` is without what may be secret."""

    id: str
    epoch: int
    attempt: int
    url: str
    reason: str
    chunks: int = 0


class MaintenanceDone(msgspec.Struct, frozen=True, kw_only=True, tag="maintenance"):
    """A clean-up came to its end: what it removed, and ``bytes_reclaimed`` of the disk. It is of no one entry."""

    files_removed: int
    entries_removed: int
    bytes_reclaimed: int
    findings: int
    id: str = ""
    epoch: int = 0
    attempt: int = 0


class LineChanged(msgspec.Struct, frozen=True, kw_only=True, tag="line"):
    """The network is another one now: connected or not, metered or not. It is of no one entry; what it does to entries
    is told by their own events."""

    line: Line
    id: str = ""
    epoch: int = 0
    attempt: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True, tag="snapshot"):
    """The first events of a subscription that asked for them: the entries as they are, a bounded number in each, in
    order of adding. After the ``last`` one come the changes since, and none that a snapshot shows already. ``id``: of
    the one entry that was subscribed to; ``epoch`` and ``attempt`` are those of each entry."""

    entries: tuple[DownloadEntry, ...]
    last: bool
    id: str = ""
    epoch: int = 0
    attempt: int = 0


EngineEvent = StateChanged | Progress | Recovered | Removed | Snapshot | MaintenanceDone | SourceBlamed | LineChanged
