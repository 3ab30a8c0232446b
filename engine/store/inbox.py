"""The inbox: commands that other processes leave for the engine, and what became of each (table INBOX).

Key 0 keeps the next number, the keys from 1 on the commands in the order of asking, and the same numbers with the
highest bit set their results. A command's row goes in the transaction that writes its result. Before its verb is begun
the row is marked with what its entry was like: an engine that finds a marked row after a crash can tell from the entry
whether the verb took place (:func:`engine.model.commands.took_place`), so it is neither lost nor done twice.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from engine.errors import BadRecord, StoreUnusable
from engine.model.commands import STATES_OF_ALL, Command, CommandResult, Mark
from engine.model.records import DownloadEntry
from engine.store import entries
from engine.store.codec import Table, decode, encode, number_key, number_of
from engine.store.environment import GUESTS_KEY, Environment
from engine.store.txn import Txn

_NEXT_NUMBER: Final = number_key(0)
_RESULT: Final = 1 << 63
_PAGE_ENTRIES: Final = 500


class Row(msgspec.Struct, frozen=True):
    """A command that waits; None for one that does not decode."""

    number: int
    command: Command | None


class Begun(msgspec.Struct, frozen=True):
    """A marked command, and its entry as it is. ``again``: it was marked before, and the process that did it ended."""

    command: Command
    entry: DownloadEntry | None
    again: bool


def append(txn: Txn, new: Sequence[Command], most: int) -> list[Command]:
    """Add commands as the last in order; they are returned with their numbers. Raises StoreUnusable when more than
    ``most`` would wait."""
    waiting = sum(1 for _ in _numbers(txn))
    if waiting + len(new) > most:
        raise StoreUnusable(f"the inbox is full: {waiting} commands wait for the engine")
    first = _next_number(txn)
    placed = [replace(command, number=first + at, mark=None) for at, command in enumerate(new)]
    for command in placed:
        txn.put(Table.INBOX, number_key(command.number), encode(command))
    txn.put(Table.INBOX, _NEXT_NUMBER, number_key(first + len(new)))
    return placed


def waiting(txn: Txn, after: int, limit: int) -> list[Row]:
    """At most ``limit`` commands behind the number ``after``, in the order of asking."""
    found: list[Row] = []
    for number in _numbers(txn, after + 1):
        if len(found) == limit:
            break
        try:
            found.append(Row(number, find(txn, number)))
        except BadRecord as error:
            txn.note(Table.INBOX, number_key(number), "", str(error))
            found.append(Row(number, None))
    return found


def find(txn: Txn, number: int) -> Command | None:
    """A command that waits or is begun. Raises BadRecord."""
    payload = txn.get(Table.INBOX, number_key(number))
    return None if payload is None else decode(payload, Command)


def begin(txn: Txn, numbers: Sequence[int]) -> list[Begun]:
    """Mark the commands as begun; withdrawn ones are left out."""
    begun: list[Begun] = []
    for number in numbers:
        command = find(txn, number)
        if command is None:
            continue
        entry = _entry_of(txn, command)
        again = command.mark is not None
        if not again:
            command = replace(command, mark=_mark_of(txn, command, entry))
            txn.put(Table.INBOX, number_key(number), encode(command))
        begun.append(Begun(command, entry, again))
    return begun


def finish(txn: Txn, result: CommandResult, kept_s: float) -> None:
    """Write the result, and its command is gone. Results older than ``kept_s``, or from before a reboot, go too."""
    txn.delete(Table.INBOX, number_key(result.number))
    for key in list(_stale(txn, result.boot_id, result.uptime_s - kept_s)):
        txn.delete(Table.INBOX, key)
    txn.put(Table.INBOX, number_key(_RESULT + result.number), encode(result))


def result_of(txn: Txn, number: int) -> CommandResult | None:
    """What became of a command; None while it waits, and when its result is gone."""
    return _result_at(txn, number_key(_RESULT + number))


def withdraw(txn: Txn, numbers: Sequence[int]) -> list[int]:
    """Take back the commands that were not begun; returns their numbers."""
    taken: list[int] = []
    for number in numbers:
        command = find(txn, number)
        if command is not None and command.mark is None:
            txn.delete(Table.INBOX, number_key(number))
            taken.append(number)
    return taken


def targets(txn: Txn, command: Command) -> list[str]:
    """The ids of the entries that a begun command for all is about, as they are now."""
    newest = command.mark.sequence if command.mark is not None else sys.maxsize
    found: list[str] = []
    for state in STATES_OF_ALL.get(command.verb, ()):
        after: str | None = None
        while page := entries.page(txn, state, after, _PAGE_ENTRIES):
            found += [entry.id for entry in page if entry.sequence <= newest and command.scope in {None, entry.scope}]
            after = page[-1].id
    return found


def _numbers(txn: Txn, first: int = 1) -> Iterator[int]:
    for key in txn.keys(Table.INBOX, start=number_key(first)):
        number = number_of(key)
        if number >= _RESULT:
            return
        yield number


def _next_number(txn: Txn) -> int:
    """Never one that was used before: its result would be taken for another's."""
    try:
        kept = txn.get(Table.INBOX, _NEXT_NUMBER)
        return 1 if kept is None else number_of(kept)
    except BadRecord as error:
        txn.note(Table.INBOX, _NEXT_NUMBER, "", str(error))
        used = {number_of(key) & (_RESULT - 1) for key in txn.keys(Table.INBOX) if key != GUESTS_KEY}
        return 1 + max(used, default=0)


def _stale(txn: Txn, boot_id: str, since_s: float) -> Iterator[bytes]:
    """The keys of the results from before ``since_s``. They come in about the order of time: the first newer one ends
    it."""
    for key in txn.keys(Table.INBOX, start=number_key(_RESULT)):
        if key == GUESTS_KEY:
            return
        old = _result_at(txn, key)
        if old is not None and old.boot_id == boot_id and old.uptime_s >= since_s:
            return
        yield key


def _result_at(txn: Txn, key: bytes) -> CommandResult | None:
    try:
        payload = txn.get(Table.INBOX, key)
        return None if payload is None else decode(payload, CommandResult)
    except BadRecord as error:
        txn.note(Table.INBOX, key, "", str(error))
        return None


def _entry_of(txn: Txn, command: Command) -> DownloadEntry | None:
    if command.every or not command.id:
        return None
    try:
        return entries.find(txn, command.id)
    except BadRecord:  # noted; the verb decides what can be done about it
        return None


def _mark_of(txn: Txn, command: Command, entry: DownloadEntry | None) -> Mark:
    if command.every:
        return Mark(entries.newest_sequence(txn))
    if entry is None:
        return Mark(0)
    return Mark(entry.sequence, entry.epoch, entry.state, entry.updated_at)


class EngineInbox:
    """The engine's side: every method is one whole transaction (as those of ``StateStore``, which holds this)."""

    def __init__(self, environment: Environment) -> None:
        self._environment = environment

    def waiting(self, after: int, limit: int) -> list[Row]:
        """See :func:`waiting`."""
        return self._environment.read(lambda txn: waiting(txn, after, limit))

    def begin(self, numbers: Sequence[int]) -> list[Begun]:
        """See :func:`begin`."""
        return self._environment.write(lambda txn: begin(txn, numbers))

    def finish(self, result: CommandResult, kept_s: float) -> None:
        """See :func:`finish`."""
        self._environment.write(lambda txn: finish(txn, result, kept_s))

    def targets(self, command: Command) -> list[str]:
        """See :func:`targets`."""
        return self._environment.read(lambda txn: targets(txn, command))
