"""``verify`` while another process runs the engine: that one reads and repairs, this one asks and tells."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator
from itertools import islice
from typing import Final

from engine.cli import status
from engine.cli.console import PROGRAM, escape, warn
from engine.cli.library import PAGE_ENTRIES, open_store
from engine.cli.one_interrupt import OneInterrupt
from engine.cli.reports import ask, command_for
from engine.cli.sending import owner_runs
from engine.cli.text import fault_text
from engine.cli.trust_options import trust_options_given
from engine.cli.verified import UNTOUCHED, Mended, begun, tell
from engine.control.verify import Validation
from engine.errors import InvalidRequest, StoreBusy, UnknownEntry
from engine.files.filesystem import FileSystem
from engine.model.commands import Verb
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.store.bell import ring
from engine.store.guest import open_guest

AT_ONCE: Final = 16  # files are read in the other process beside all that it has to do
LOOK_INTERVAL_S: Final = 0.1
_ENDED: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


def verify_elsewhere(arguments: argparse.Namespace, busy: StoreBusy) -> int:
    """Check the entries named, or all that are complete. Raises UnknownEntry, StoreError, InvalidRequest."""
    if given := ", ".join(trust_options_given(arguments)):
        raise InvalidRequest(f"{given} cannot be given to an engine that runs already: {busy}")
    invalid = 0
    wanted = iter(list(_entries(arguments)))
    while batch := {entry.id: entry for entry in islice(wanted, AT_ONCE)}:
        commands = [command_for(Verb.VERIFY, entry_id, repair=arguments.repair) for entry_id in batch]
        for command, found in ask(arguments.root, commands, Validation, busy):
            if not isinstance(found, Validation):  # removed meanwhile, or its record is damaged
                why = escape(found.outcome.value) if found.error is None else fault_text(found.error)
                warn(f"{PROGRAM}: {escape(command.id)}: {why}")
                invalid += 1
                continue
            before = batch[command.id]
            mended = _wait(arguments.root, before) if begun(found) else UNTOUCHED
            invalid += not tell(arguments.root, before, found, mended, as_json=arguments.json)
    return status.FAILED if invalid else status.COMPLETE


def _entries(arguments: argparse.Namespace) -> Iterator[DownloadEntry]:
    with open_store(arguments.root) as store:
        for entry_id in dict.fromkeys(arguments.ids):
            if (entry := store.get(entry_id)) is None:
                raise UnknownEntry(f"there is no entry {entry_id}")
            yield entry
        for state in () if arguments.ids else (State.COMPLETED, State.FAILED):
            after: str | None = None
            while page := store.list(state, after, PAGE_ENTRIES):
                for entry in page:  # a repair that failed leaves its file
                    if state is State.COMPLETED or store.offline(entry.id) is not None:
                        yield entry
                after = page[-1].id


def _wait(root: str, before: DownloadEntry) -> Mended:
    """Until the repair has ended, or the engine has."""
    files = FileSystem()
    with OneInterrupt(), open_guest(root, files) as guest:
        while True:
            entry = guest.get(before.id)
            if entry is None or entry.sequence != before.sequence:
                return Mended(why=f"{before.id} was removed")
            if entry.state in _ENDED:
                mine = [attempt for attempt in entry.attempts if attempt.number > before.attempt_count]
                error = f": {entry.last_error.message}" if entry.last_error is not None else ""
                complete = entry.state is State.COMPLETED
                why = "" if complete else f"{entry.id} is {entry.state.value}{error}"
                return Mended(complete, why, sum(attempt.bytes_fetched for attempt in mine))
            if not ring(root, files) and not owner_runs(guest):
                return Mended(why="its engine ended first; the next one goes on with it")
            time.sleep(LOOK_INTERVAL_S)
