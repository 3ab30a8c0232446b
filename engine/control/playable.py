"""Whether a file can be played without the network, by a look from outside: nothing is read."""

from __future__ import annotations

from enum import StrEnum

from engine.files.filesystem import FileSystem
from engine.model.records import DownloadEntry, OfflineEntry
from engine.model.states import State


class OfflineState(StrEnum):
    """What a player asks before it plays."""

    NOT_OFFLINED = "not_offlined"  # nobody asked for it, or it is not complete
    OFFLINED_AND_VALID = "offlined_and_valid"
    OFFLINED_BUT_NOT_VALID = "offlined_but_not_valid"  # it has expired, or its file is gone or another one


def offline_state(
    entry: DownloadEntry | None, offline: OfflineEntry | None, files: FileSystem, now: float
) -> OfflineState:
    """``offline`` with no ``entry`` that is COMPLETED is the older file of one that is being fetched again: it can be
    played until the new one is published. Blocks. Raises OSError when the file cannot be looked at."""
    if entry is None or offline is None or entry.state is State.CANCELLED:
        return OfflineState.NOT_OFFLINED
    info = files.stat_path(offline.path)
    untouched = info is not None and (info.st_size, info.st_mtime_ns) == (offline.size, offline.mtime_ns)
    expired = offline.expires_at is not None and offline.expires_at <= now
    return OfflineState.OFFLINED_AND_VALID if untouched and not expired else OfflineState.OFFLINED_BUT_NOT_VALID
