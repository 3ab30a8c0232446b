"""What an engine of another process found, when it was asked through the inbox."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, TypeVar

import msgspec

from engine.cli.sending import send
from engine.errors import StoreBusy
from engine.model.commands import Command, CommandResult, Outcome, Verb

Report = TypeVar("Report", bound=msgspec.Struct)

# To read many files takes its time. An engine that ended, or Ctrl-C, is noticed at once all the same.
ANSWERED_WITHIN_S: Final = 6 * 3600.0


def command_for(verb: Verb, entry_id: str = "", **fields: Any) -> Command:
    """A new command about one entry, or (without an id) about none."""
    return Command(verb=verb, token=secrets.token_hex(8), id=entry_id, created_at=time.time(), **fields)


def ask(
    root: str, commands: Sequence[Command], kind: type[Report], busy: StoreBusy
) -> Iterator[tuple[Command, Report | CommandResult]]:
    """Have them carried out by whoever has the root; each with what was found, or with the result that refused it.

    Raises ``busy`` when that engine is of an older version, or does not answer; StoreError, KeyboardInterrupt.
    """
    answers = send(root, commands, ANSWERED_WITHIN_S)
    for command in answers.commands:
        result = answers.results.get(command.number)
        if result is None or result.outcome is Outcome.UNSUPPORTED:
            raise busy
        found = result.outcome is Outcome.DONE
        yield command, msgspec.json.decode(result.report, type=kind) if found else result
