"""Every entry is explained: its state, its reason, since when, what would move it, when it is tried next."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.control.explain import MEANINGS, explain
from engine.model.records import DownloadEntry, ErrorRecord
from engine.model.states import Reason, State

ERROR = ErrorRecord(code="http_5xx", message="the server answered 503", advice="Ask again later.", at=5.0)


def entry(state: State, reason: Reason = Reason.NONE, **fields: Any) -> DownloadEntry:
    given = {"updated_at": 86_400.0, **fields}
    return DownloadEntry(id="a", sources=("http://h/x?token=secret",), state=state, state_reason=reason, **given)


@pytest.mark.parametrize("working", [True, False])
@pytest.mark.parametrize("reason", list(Reason))
@pytest.mark.parametrize("state", list(State))
def test_every_state_and_reason_is_explained(state: State, reason: Reason, working: bool) -> None:
    told = explain(entry(state, reason, last_error=ERROR), working=working)
    assert (told.id, told.state, told.reason, told.since) == ("a", state, reason, 86_400.0)
    assert told.what_would_move_it
    assert told.text.endswith(f"What would move it: {told.what_would_move_it}.")
    assert "1970-01-02 00:00:00" in told.text
    assert "secret" not in told.text.replace("secret headers", "")
    assert msgspec.json.decode(msgspec.json.encode(told))["state"] == state.value


def test_every_state_has_a_meaning_of_its_own() -> None:
    assert {state for state, reason in MEANINGS if reason is None} == set(State)
    assert len({meaning.is_so for meaning in MEANINGS.values()}) == len(MEANINGS)


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (State.PAUSED, Reason.USER, "paused by a user"),
        (State.PAUSED, Reason.NETWORK, "no network"),
        (State.PAUSED, Reason.METERED, "metered"),
        (State.PAUSED, Reason.DISK, "disk is full"),
        (State.PAUSED, Reason.QUOTA, "may not take as much"),
        (State.PENDING, Reason.BACKOFF, "tried again"),
        (State.PENDING, Reason.NEEDS_CREDENTIALS, "never stored"),
        (State.FAILED, Reason.ERROR, "503 (http_5xx). Ask again later."),
        (State.COMPLETED, Reason.NONE, "complete"),
    ],
)
def test_the_reason_is_told_in_words(state: State, reason: Reason, words: str) -> None:
    assert words in explain(entry(state, reason, last_error=ERROR)).text


def test_since_when_is_the_time_of_that_state() -> None:
    assert explain(entry(State.PAUSED, paused_at=7.0)).since == 7.0
    assert explain(entry(State.COMPLETED, completed_at=8.0)).since == 8.0
    assert explain(entry(State.FAILED, paused_at=7.0, completed_at=8.0)).since == 86_400.0


def test_the_next_try_is_told_while_there_is_one() -> None:
    waiting = explain(entry(State.PENDING, Reason.BACKOFF, next_retry_at=172_800.0))
    assert waiting.next_try_at == 172_800.0
    assert "1970-01-03 00:00:00" in waiting.text
    assert explain(entry(State.PAUSED, next_retry_at=172_800.0)).next_try_at is None


def test_without_an_engine_it_says_so() -> None:
    assert "an engine" in explain(entry(State.PENDING), working=False).what_would_move_it
    assert "is gone" in explain(entry(State.IN_PROGRESS), working=False).what_would_move_it
    assert explain(entry(State.FAILED), working=False) == explain(entry(State.FAILED), working=True)


def test_missing_credentials_are_named() -> None:
    assert "x-key" in explain(entry(State.PENDING, Reason.NEEDS_CREDENTIALS, secret_header_names=("x-key",))).text


def test_what_a_newer_version_wrote_is_explained_as_far_as_it_goes() -> None:
    assert "newer version" in explain(entry(State("frozen"))).text
    assert "is paused" in explain(entry(State.PAUSED, Reason("moonlight"))).text


@pytest.mark.parametrize("at", [-1e300, 1e300, float("inf"), float("nan"), 1e15])
def test_any_time_on_record_can_be_told(at: float) -> None:
    assert explain(entry(State.PENDING, updated_at=at, next_retry_at=at)).text
