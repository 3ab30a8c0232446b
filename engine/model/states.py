"""The life of an entry: six states and the one table of what may move it (DESIGN section 6)."""

from __future__ import annotations

from enum import StrEnum
from typing import Self

from engine.errors import IllegalTransition


class OpenEnum(StrEnum):
    """A string enum that keeps values it does not know: a newer version may have written them."""

    @classmethod
    def _missing_(cls, value: object) -> Self | None:
        if not isinstance(value, str):
            return None
        member = str.__new__(cls, value)
        member._name_ = value.upper()
        member._value_ = value
        return member

    @property
    def known(self) -> bool:
        """Whether this version of the engine knows the value."""
        return self.value in type(self)._value2member_map_


class State(OpenEnum):
    """Where an entry stands. Values are persisted and never change."""

    PENDING = "pending"
    IN_PROGRESS = "in_progress"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class Event(StrEnum):
    """What can happen to an entry."""

    START = "start"
    PAUSE = "pause"
    CANCEL = "cancel"
    FAIL = "fail"
    COMPLETE = "complete"
    PREEMPT = "preempt"
    RECOVER = "recover"
    RESUME = "resume"
    RETRY = "retry"
    REQUEST = "request"
    REPAIR = "repair"
    REVALIDATE = "revalidate"


class Reason(OpenEnum):
    """Why an entry is in its state. Values are persisted and never change."""

    NONE = ""
    USER = "user"
    NETWORK = "network"
    METERED = "metered"
    HOURS = "hours"
    DISK = "disk"
    QUOTA = "quota"
    BACKOFF = "backoff"
    SHUTDOWN = "shutdown"
    RECOVERED = "recovered"
    PREEMPTED = "preempted"
    NEEDS_URL = "needs_url"
    NEEDS_CREDENTIALS = "needs_credentials"
    ERROR = "error"


TRANSITIONS: dict[State, dict[Event, State]] = {
    State.PENDING: {
        Event.START: State.IN_PROGRESS,
        Event.PAUSE: State.PAUSED,
        Event.CANCEL: State.CANCELLED,
        Event.FAIL: State.FAILED,
    },
    State.IN_PROGRESS: {
        Event.COMPLETE: State.COMPLETED,
        Event.PAUSE: State.PAUSED,
        Event.FAIL: State.FAILED,
        Event.CANCEL: State.CANCELLED,
        Event.PREEMPT: State.PENDING,
        Event.RECOVER: State.PENDING,
    },
    State.PAUSED: {Event.RESUME: State.PENDING, Event.CANCEL: State.CANCELLED},
    State.FAILED: {Event.RETRY: State.PENDING, Event.CANCEL: State.CANCELLED},
    State.CANCELLED: {Event.REQUEST: State.PENDING},
    State.COMPLETED: {Event.REPAIR: State.PENDING, Event.REVALIDATE: State.PENDING},
}

# Events that begin a new epoch: results of what ran before them are dropped from then on.
NEW_EPOCH = frozenset({Event.REQUEST, Event.REPAIR, Event.REVALIDATE, Event.RETRY})


def advance(state: State, event: Event) -> State:
    """The state after ``event``. Raises IllegalTransition for a pair that is not in the table."""
    target = TRANSITIONS.get(state, {}).get(event)
    if target is None:
        raise IllegalTransition(f"an entry that is {state.value} cannot {event.value}")
    return target
