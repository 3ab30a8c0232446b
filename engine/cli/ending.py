"""How an error ends the command: what is said, and the exit status."""

from __future__ import annotations

import os
import traceback
from typing import Final

from engine.cli import status
from engine.cli.console import PROGRAM, OutputLost, escape, warn
from engine.errors import EngineError, InvalidRequest, StorageError, StoreError, UnknownEntry

TRACEBACK_VARIABLE: Final = "OFFLINE_ENGINE_TRACEBACK"

# The first class that fits counts. A StorageError gets this far only from the store itself: those of an entry are its
# outcome. What the loss of stdout brings about in the engine (it is closed) comes after that loss.
_STATUS_OF: Final[tuple[tuple[type[BaseException], int], ...]] = (
    (InvalidRequest, status.USAGE),
    (StoreError, status.STORE),
    (StorageError, status.STORE),
    (UnknownEntry, status.FAILED),
    (OutputLost, status.FAILED),
    (BrokenPipeError, status.BROKEN_PIPE),
    (EngineError, status.FAILED),
    (KeyboardInterrupt, status.INTERRUPTED),
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


def tell(error: BaseException) -> int:
    """Say on stderr, in one line, what ended the command; returns the exit status."""
    cause = root_cause(error)
    code = status_of(cause)
    if os.environ.get(TRACEBACK_VARIABLE):
        warn("".join(traceback.format_exception(error)).rstrip())
    if isinstance(cause, EngineError):
        from engine.cli.text import fault_text  # noqa: PLC0415  # what it imports is there when the engine is

        warn(f"{PROGRAM}: {fault_text(cause)}")
    elif isinstance(cause, KeyboardInterrupt):
        warn(f"{PROGRAM}: interrupted")
    elif isinstance(cause, OutputLost):
        warn(f"{PROGRAM}: {escape(str(cause))}")
    elif not isinstance(cause, BrokenPipeError):
        warn(f"{PROGRAM}: unexpected {escape(f'{type(cause).__name__}: {cause}')}; set {TRACEBACK_VARIABLE}=1 for more")
    return status.FAILED if code is None else code
