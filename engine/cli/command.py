"""``pause``, ``resume``, ``cancel``, ``retry``, ``remove``, ``prioritise``: done by the engine that runs, or here."""

from __future__ import annotations

import argparse
import secrets
import time

from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.outcome import error_json
from engine.cli.sending import Answers, send
from engine.cli.text import fault_text
from engine.errors import Fault, InvalidRequest
from engine.model.commands import Command, CommandResult, Outcome, Verb
from engine.model.records import ErrorRecord

PRIORITY_MAX = 2**31 - 1

_DONE = {
    Verb.PAUSE: "paused",
    Verb.RESUME: "resumed",
    Verb.CANCEL: "cancelled",
    Verb.RETRY: "retried",
    Verb.REMOVE: "removed",
    Verb.PRIORITISE: "prioritised",
}


def run(arguments: argparse.Namespace) -> int:
    """Have the verb done to each entry, and print what became of it; 1 when one was refused, 3 when the engine does not
    answer. Raises InvalidRequest, StoreError."""
    answers = send(arguments.root, _commands(arguments), arguments.timeout)
    refused = 0
    for command in answers.commands:
        result = answers.results.get(command.number)
        if arguments.json:
            print_json(_as_json(command, result, withdrawn=command.number in answers.withdrawn))
        elif result is not None and result.outcome is Outcome.DONE:
            print_line(_as_line(command, result))
        elif result is not None:
            warn(f"{_what(command)} {_how(command, result)}: {_why(result)}")
        refused += result is not None and result.outcome is not Outcome.DONE
    if len(answers.results) < len(answers.commands):
        _tell_unanswered(answers, arguments.timeout)
        return status.STORE
    return status.FAILED if refused else status.COMPLETE


def _commands(arguments: argparse.Namespace) -> list[Command]:
    if bool(arguments.ids) == arguments.all:
        raise InvalidRequest(f"{arguments.verb} needs ids, or --all, and not both")
    if arguments.scope is not None and not arguments.all:
        raise InvalidRequest("--scope is for --all: an id has one scope already")
    priority = getattr(arguments, "priority", None)
    if priority is not None and not -PRIORITY_MAX <= priority <= PRIORITY_MAX:
        raise InvalidRequest("--priority must fit 32 bits")
    if not 0 < arguments.timeout < float("inf"):
        raise InvalidRequest("--timeout must be a number of seconds above 0")
    return [
        Command(
            verb=Verb(arguments.verb),
            token=secrets.token_hex(8),
            id=entry_id,
            every=arguments.all,
            scope=arguments.scope,
            priority=priority,
            preempt=getattr(arguments, "preempt", False),
            keep_file=getattr(arguments, "keep_file", False),
            created_at=time.time(),
        )
        for entry_id in (dict.fromkeys(arguments.ids) or [""])
    ]


def _what(command: Command) -> str:
    if command.every:
        return f"{command.verb.value} of all" + (f" of scope {escape(command.scope)}" if command.scope else "")
    return f"{command.verb.value} {escape(command.id)}"


def _how(command: Command, result: CommandResult) -> str:
    """A removal whose files cannot be deleted now is done all the same, and they are tried again."""
    by_disk = result.error is not None and result.error.fault == Fault.STORAGE.value
    return "not finished" if by_disk and command.verb in {Verb.REMOVE, Verb.CANCEL} else "refused"


def _as_line(command: Command, result: CommandResult) -> str:
    done = _DONE[command.verb]
    if command.every:
        return f"{done} {result.count} {'entry' if result.count == 1 else 'entries'}"
    if command.verb is Verb.REMOVE and result.state:
        return f"{done} {escape(command.id)}, which stays {escape(result.state)} for the groups that hold it"
    return f"{done} {escape(command.id)}" + (f", now {escape(result.state)}" if result.state else "")


def _why(result: CommandResult) -> str:
    if result.outcome is Outcome.UNSUPPORTED:
        return "the engine that runs is older than this program and does not know the command"
    changed = f" ({result.count} were changed)" if result.count else ""
    return (fault_text(result.error) if result.error else escape(result.outcome.value)) + changed


def _as_json(command: Command, result: CommandResult | None, *, withdrawn: bool) -> dict[str, object]:
    error: ErrorRecord | None = result.error if result is not None else None
    unanswered = "withdrawn" if withdrawn else "unanswered"
    return {
        "verb": command.verb.value,
        "id": None if command.every else command.id,
        "all": command.every,
        "scope": command.scope,
        "outcome": unanswered if result is None else result.outcome.value,
        "state": result.state or None if result is not None else None,
        "count": result.count if result is not None else 0,
        "error": error_json(error),
    }


def _tell_unanswered(answers: Answers, timeout_s: float) -> None:
    who = f"process {answers.pid}" if answers.pid else "the engine"
    begun = len(answers.open)
    text = f"{PROGRAM}: {who} did not answer within {timeout_s:g} s: "
    text += f"{len(answers.withdrawn)} taken back, nothing was changed by them"
    warn(text + (f"; {begun} begun, to be finished by it" if begun else ""))
