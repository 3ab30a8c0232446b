"""Whether a command that was begun, and whose result was never written, took place: told from its entry."""

from __future__ import annotations

from typing import Any

import pytest

from engine.model.commands import Command, Mark, Verb, took_place
from engine.model.records import DownloadEntry
from engine.model.states import Reason, State


def command(verb: Verb, mark: Mark | None = None) -> Command:
    return Command(verb=verb, token="t", id="a", priority=5, mark=mark)


def entry(**fields: Any) -> DownloadEntry:
    return DownloadEntry(id="a", sources=("http://example.test/a",), **fields)


TOOK_PLACE = [
    (Verb.PAUSE, State.PENDING, {"state": State.PAUSED, "state_reason": Reason.USER}, True),
    (Verb.PAUSE, State.PENDING, {"state": State.PAUSED, "state_reason": Reason.DISK}, False),
    (Verb.PAUSE, State.IN_PROGRESS, {"state": State.PENDING}, False),
    (Verb.RESUME, State.PAUSED, {"state": State.PENDING, "updated_at": 9.0}, True),
    (Verb.RESUME, State.PAUSED, {"state": State.PAUSED, "updated_at": 9.0}, True),
    (Verb.RESUME, State.PAUSED, {"state": State.PAUSED}, False),
    (Verb.RESUME, State.FAILED, {"state": State.FAILED}, False),
    (Verb.CANCEL, State.PENDING, {"state": State.CANCELLED}, True),
    (Verb.CANCEL, State.PENDING, {"state": State.PENDING, "epoch": 2}, True),
    (Verb.CANCEL, State.PENDING, {"state": State.PENDING}, False),
    (Verb.RETRY, State.FAILED, {"state": State.FAILED, "epoch": 2}, True),
    (Verb.RETRY, State.FAILED, {"state": State.FAILED}, False),
    (Verb.REMOVE, State.COMPLETED, None, True),
    (Verb.REMOVE, State.COMPLETED, {"sequence": 2}, True),
    (Verb.REMOVE, State.COMPLETED, {"state": State.COMPLETED}, False),
    (Verb.PAUSE, State.PENDING, None, False),
    (Verb.PAUSE, State.PENDING, {"sequence": 2, "state": State.PAUSED, "state_reason": Reason.USER}, False),
    (Verb.PRIORITISE, State.PENDING, {"priority": 5}, True),
    (Verb.PRIORITISE, State.PENDING, {"priority": 0}, False),
]


@pytest.mark.parametrize(("verb", "state", "after", "expected"), TOOK_PLACE)
def test_whether_a_begun_command_took_place(
    verb: Verb, state: State, after: dict[str, Any] | None, expected: bool
) -> None:
    mark = Mark(sequence=1, epoch=1, state=state, updated_at=1.0)
    given = None if after is None else entry(**{"sequence": 1, "updated_at": 1.0, **after})
    assert took_place(command(verb, mark), given) is expected


def test_what_was_not_begun_did_not_take_place() -> None:
    assert not took_place(command(Verb.REMOVE), None)
    assert not took_place(command(Verb.REMOVE, Mark(0)), None)


def test_a_get_that_was_begun_brings_nothing_back() -> None:
    assert took_place(command(Verb.GET, Mark(0)), entry(sequence=3))
    assert not took_place(command(Verb.GET, Mark(0)), None)
