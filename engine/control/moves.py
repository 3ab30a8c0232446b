"""Changes of state as the manager makes them: the store first, then the event (DESIGN law 4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec.structs import replace

from engine.control.hub import EventHub
from engine.model.events import StateChanged
from engine.model.records import DownloadEntry, ErrorRecord
from engine.model.states import Event, Reason, State
from engine.store.bulk import Move, Moved
from engine.transfer.services import Services

# What an event takes back of an entry besides its state, unless its caller says otherwise.
CLEARED: dict[Event, dict[str, Any]] = {
    Event.PAUSE: {"next_retry_at": None},
    Event.CANCEL: {"next_retry_at": None, "last_error": None},  # an error is not why it is CANCELLED
}


class Moves:
    """Moves entries and tells of it. (Completing is :mod:`engine.transfer.finish`'s, recovering the start's.)"""

    def __init__(self, services: Services, hub: EventHub) -> None:
        self._services = services
        self._hub = hub

    async def move(
        self,
        entry: DownloadEntry,
        event: Event,
        reason: Reason = Reason.NONE,
        *,
        error: ErrorRecord | None = None,
        tries: int = 0,
        tries_max: int = 0,
        **changes: Any,
    ) -> DownloadEntry:
        """Move the entry, durably, and announce it. ``tries`` of ``tries_max`` were made without progress before the
        next. Raises IllegalTransition, StaleEpoch, UnknownEntry, StoreError."""
        moved = await self._services.write(
            self._services.store.transition,
            entry.id,
            event,
            epoch=entry.epoch,
            now=self._services.now(),
            reason=reason,
            **{**CLEARED.get(event, {}), **changes},
        )
        self.announce(moved, entry.state, error, tries, tries_max)
        return moved

    async def move_all(self, moves: Sequence[Move]) -> list[Moved | None]:
        """Move many in one transaction, and announce each that was; None for one that is not any more as it was seen,
        or that the table refuses. Raises StoreError; then nothing was moved."""
        whole = [_whole(move) for move in moves]
        done = await self._services.write(self._services.store.bulk.move, whole, self._services.now())
        for moved in done:
            if moved is not None:
                self.announce(moved.entry, moved.previous)
        return done

    def announce(
        self,
        entry: DownloadEntry,
        previous: State | None,
        error: ErrorRecord | None = None,
        tries: int = 0,
        tries_max: int = 0,
    ) -> None:
        """Tell that the entry is in its state now."""
        self._hub.emit(
            StateChanged(
                id=entry.id,
                epoch=entry.epoch,
                attempt=entry.attempt_count,
                previous=previous,
                state=entry.state,
                reason=entry.state_reason,
                error=error,
                retry_at=entry.next_retry_at,
                tries=tries,
                tries_max=tries_max,
            )
        )


def _whole(move: Move) -> Move:
    """The move with what its event takes back."""
    cleared = CLEARED.get(move.event, {}) if move.event is not None else {}
    return replace(move, changes={**cleared, **move.changes})
