"""What the engine tells its host. Each carries the entry's id, epoch and attempt, so that a late one can be told."""

from __future__ import annotations

import msgspec

from engine.model.records import ErrorRecord
from engine.model.states import Reason, State


class StateChanged(msgspec.Struct, frozen=True, kw_only=True, tag="state"):
    """The entry is now in ``state``, durably. Never lost, in order."""

    id: str
    epoch: int
    attempt: int
    previous: State | None
    state: State
    reason: Reason = Reason.NONE
    error: ErrorRecord | None = None


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


EngineEvent = StateChanged | Progress | Recovered
