"""What other processes ask of an engine through its inbox, what they are told back, and when a command that was begun
counts as done.

A command is about one entry (``id``), or all of a scope, or all; a clean-up is about none. There is no deadline by a
clock: one that jumped would lose commands. Who stops waiting withdraws its command instead, and so knows whether it
took place.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

import msgspec

from engine.model.records import DownloadEntry, DownloadRequest, ErrorRecord
from engine.model.states import OpenEnum, Reason, State

# Grows when a command can say something that an older engine would overlook; such a one is "unsupported" there.
COMMAND_FORM: Final = 1


class Verb(OpenEnum):
    """What can be asked. Values are persisted and never change."""

    GET = "get"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"
    RETRY = "retry"
    REMOVE = "remove"
    PRIORITISE = "prioritise"
    VERIFY = "verify"
    GC = "gc"


class Outcome(OpenEnum):
    """What became of a command."""

    DONE = "done"
    REFUSED = "refused"  # its ``error`` says why; nothing was changed, or of several entries not all
    UNSUPPORTED = "unsupported"  # the engine is older than the program that asked


class Mark(msgspec.Struct, frozen=True):
    """What a command's entry was like just before the command was begun; ``sequence`` 0: there was none.

    Of a command for all: ``sequence`` is the newest entry's, so that later ones stay out of it, whenever it is done.
    """

    sequence: int
    epoch: int = 0
    state: State | None = None
    updated_at: float = 0.0


class Command(msgspec.Struct, frozen=True, kw_only=True):
    """One thing asked for. ``number`` is its place in the order of asking, given by the store. ``token``: a random text
    by which the sender knows its own. ``created_at`` is for people only. ``mark`` is there once it is begun."""

    verb: Verb
    token: str
    id: str = ""
    every: bool = False
    scope: str | None = None
    request: DownloadRequest | None = None
    priority: int | None = None
    preempt: bool = False
    keep_file: bool = False
    repair: bool = False
    dry_run: bool = False
    created_at: float = 0.0
    form: int = COMMAND_FORM
    number: int = 0
    mark: Mark | None = None

    @property
    def understood(self) -> bool:
        """Whether this version of the engine knows what is asked."""
        return self.verb.known and self.form <= COMMAND_FORM


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the command ``number``. ``state`` is the entry's afterwards, empty when there is none; ``count``:
    how many entries were changed. ``report``: what a verb found, as JSON, for those that only look or clean up.
    ``boot_id`` and ``uptime_s`` tell when, by a clock that never jumps."""

    number: int
    token: str
    outcome: Outcome
    state: str = ""
    count: int = 0
    error: ErrorRecord | None = None
    report: bytes = b""
    boot_id: str = ""
    uptime_s: float = 0.0


# Commands that are about no entry: nothing waits for them, and they for nothing but a command for all.
ABOUT_NONE: Final = frozenset({Verb.GC})

# Commands for all that go from entry to entry, and the entries that they are about. Those that wait for a turn come
# before those that run: no turn that becomes free is given away in between. (The others move many at once.)
STATES_OF_ALL: Final[Mapping[Verb, tuple[State, ...]]] = {
    Verb.REMOVE: tuple(State),
    Verb.PRIORITISE: (State.PENDING, State.IN_PROGRESS, State.PAUSED, State.FAILED),
}

# By what an entry shows that a command, begun at this mark, has changed it already.
_SHOWN_BY: Final[Mapping[Verb, Callable[[Mark, DownloadEntry, Command], bool]]] = {
    Verb.PAUSE: lambda _mark, entry, _command: (entry.state, entry.state_reason) == (State.PAUSED, Reason.USER),
    Verb.RESUME: lambda mark, entry, _command: mark.state is State.PAUSED and entry.updated_at != mark.updated_at,
    Verb.CANCEL: lambda mark, entry, _command: entry.state is State.CANCELLED or entry.epoch != mark.epoch,
    Verb.RETRY: lambda mark, entry, _command: entry.epoch != mark.epoch,
    Verb.REMOVE: lambda _mark, _entry, _command: False,
    Verb.PRIORITISE: lambda _mark, entry, command: entry.priority == command.priority,
    Verb.VERIFY: lambda _mark, _entry, _command: False,  # what it found is not known: it is looked at again
    Verb.GC: lambda _mark, _entry, _command: False,  # about no entry, and harmless to do again
}


def is_gone(command: Command, entry: DownloadEntry | None) -> bool:
    """Whether the entry that a begun command was meant for is there no more; one that was added under the same id since
    is none of its business. (A ``get`` is meant for whatever is there.)"""
    if command.mark is None or command.verb is Verb.GET:
        return False
    return command.mark.sequence != (0 if entry is None else entry.sequence)


def took_place(command: Command, entry: DownloadEntry | None) -> bool:
    """Whether a command for one entry that was begun, and whose result was never written, has changed it all the same:
    the process ended in between. Then it is not done again."""
    if command.mark is None:
        return False
    if command.verb is Verb.GET:  # asking again merges; but it must not bring back what was removed after it
        return command.mark.sequence == 0 and entry is not None
    if is_gone(command, entry):
        return command.verb is Verb.REMOVE and command.mark.sequence > 0
    return entry is not None and _SHOWN_BY[command.verb](command.mark, entry, command)
