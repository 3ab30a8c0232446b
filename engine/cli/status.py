"""Exit statuses, and which one an error leads to."""

from __future__ import annotations

from typing import Final

from engine.errors import EngineError, InvalidRequest, StorageError, StoreError, UnknownEntry

COMPLETE: Final = 0  # everything asked for is there and right
FAILED: Final = 1  # something is not
USAGE: Final = 2  # what was asked can never work; nothing was started
STORE: Final = 3  # the store is busy or cannot be used
INTERRUPTED: Final = 130  # by Ctrl-C or SIGTERM, and resumable
BROKEN_PIPE: Final = 141  # who reads the output is gone, as if SIGPIPE had ended the process

# The first class that fits counts. A StorageError gets this far only from the store itself: those of an entry are its
# outcome.
_STATUS_OF: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (InvalidRequest, USAGE),
    (StoreError, STORE),
    (StorageError, STORE),
    (UnknownEntry, FAILED),
    (EngineError, FAILED),
    (BrokenPipeError, BROKEN_PIPE),
    (KeyboardInterrupt, INTERRUPTED),
)


def status_of(error: BaseException) -> int | None:
    """The exit status for an error that ended the command; None for one that nobody expected."""
    return next((status for kind, status in _STATUS_OF if isinstance(error, kind)), None)


def root_cause(error: BaseException) -> BaseException:
    """The error to tell of: of a group, the member whose kind comes first in the table; others are its consequences."""
    if not isinstance(error, BaseExceptionGroup):
        return error
    members = [root_cause(member) for member in error.exceptions]
    order = [kind for kind, _ in _STATUS_OF]

    def rank(member: BaseException) -> int:
        return next((place for place, kind in enumerate(order) if isinstance(member, kind)), -1)

    return min(members, key=rank)
