"""The table of transitions, what a status means, and records as they are kept."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.config import Config
from engine.errors import HttpStatus, IllegalTransition, InvalidRequest
from engine.model.records import (
    Attempt,
    DownloadEntry,
    DownloadRequest,
    Durability,
    ErrorRecord,
    OfflineEntry,
    PartPhase,
    PartRecord,
    Representation,
)
from engine.model.states import NEW_EPOCH, TRANSITIONS, Event, Reason, State, advance

# DESIGN section 6, word for word; the code's own table is compared with it.
TABLE = """
PENDING      start->IN_PROGRESS  pause->PAUSED  cancel->CANCELLED  fail->FAILED
IN_PROGRESS  complete->COMPLETED  pause->PAUSED  fail->FAILED  cancel->CANCELLED  preempt|recover->PENDING
PAUSED       resume->PENDING  cancel->CANCELLED
FAILED       retry->PENDING  cancel->CANCELLED
CANCELLED    request->PENDING
COMPLETED    repair|revalidate->PENDING
"""


def _allowed() -> dict[tuple[State, Event], State]:
    allowed = {}
    for line in TABLE.strip().splitlines():
        state, *moves = line.split()
        for move in moves:
            events, target = move.split("->")
            for event in events.split("|"):
                allowed[State[state], Event(event)] = State[target]
    return allowed


@pytest.mark.parametrize("event", list(Event))
@pytest.mark.parametrize("state", list(State))
def test_every_pair_of_state_and_event(state: State, event: Event) -> None:
    """Law 5: what is not in the table raises."""
    target = _allowed().get((state, event))
    if target is None:
        with pytest.raises(IllegalTransition, match=state.value):
            advance(state, event)
    else:
        assert advance(state, event) is target


def test_the_table_is_of_known_states_and_leaves_none_a_trap() -> None:
    assert set(TRANSITIONS) == set(State)
    assert all(TRANSITIONS[state] for state in State)
    assert {event for moves in TRANSITIONS.values() for event in moves} == set(Event)
    assert {Event.REQUEST, Event.REPAIR, Event.REVALIDATE} <= NEW_EPOCH
    assert not NEW_EPOCH & {Event.START, Event.COMPLETE, Event.PREEMPT, Event.RECOVER}


def test_an_unknown_state_allows_nothing() -> None:
    with pytest.raises(IllegalTransition):
        advance(State("hibernating"), Event.START)


@given(st.text(min_size=1).filter(lambda text: text not in {member.value for member in State}))
def test_values_of_a_newer_version_are_kept(text: str) -> None:
    state = State(text)
    assert not state.known
    assert state.value == text
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(state), type=State) == state
    entry = DownloadEntry(id="x", sources=("http://h/",), state=state)
    again = msgspec.msgpack.decode(msgspec.msgpack.encode(entry), type=DownloadEntry)
    assert again.state.value == text
    assert all(member.known for member in State)


@pytest.mark.parametrize(
    ("status", "code", "retryable"),
    [
        (401, "auth", False), (403, "auth", False), (404, "not_found", False), (407, "proxy", False),
        (408, "http_4xx", True), (410, "gone", False), (418, "http_4xx", False), (425, "http_4xx", True),
        (429, "rate_limited", True), (500, "http_5xx", True), (501, "http_5xx", False), (503, "http_5xx", True),
        (520, "http_5xx", True), (524, "http_5xx", True), (599, "http_5xx", False),
    ],
)  # fmt: skip
def test_statuses(status: int, code: str, retryable: bool) -> None:
    error = HttpStatus("x", status=status)
    assert (error.code, error.retryable, error.status) == (code, retryable, status)


TEXT = st.text(max_size=20)
TIMES = st.floats(0, 1e12)
SIZES = st.integers(0, 2**60)

ERROR_RECORDS = st.builds(
    ErrorRecord, code=TEXT, message=TEXT, retryable=st.booleans(), status=st.none() | st.integers(100, 599), at=TIMES
)
REPRESENTATIONS = st.builds(
    Representation, length=st.none() | SIZES, etag=TEXT, last_modified=TEXT, ranges=st.booleans(), name=TEXT
)
PARTS = st.builds(
    PartRecord,
    folder=TEXT,
    part_name=TEXT,
    final_name=TEXT,
    chunk_bytes=st.just(1024),
    phase=st.sampled_from(PartPhase),
    length=st.none() | SIZES,
    inode=SIZES,
    representation=REPRESENTATIONS,
    superseded=st.lists(TEXT, max_size=3).map(tuple),
)
ENTRIES = st.builds(
    DownloadEntry,
    id=TEXT,
    sources=st.lists(TEXT, min_size=1, max_size=3).map(tuple),
    headers=st.lists(st.tuples(TEXT, TEXT), max_size=3).map(tuple),
    expect=st.dictionaries(TEXT, TEXT, max_size=3),
    durability=st.sampled_from(Durability),
    state=st.sampled_from(State),
    state_reason=st.sampled_from(Reason),
    attempts=st.lists(st.builds(Attempt, number=SIZES, started_at=TIMES), max_size=3).map(tuple),
    last_error=st.none() | ERROR_RECORDS,
    next_retry_at=st.none() | TIMES,
    epoch=SIZES,
)


@given(st.one_of(ENTRIES, PARTS, st.builds(OfflineEntry, id=TEXT, path=TEXT, size=SIZES, blake3=TEXT)))
def test_records_come_back_as_they_went(record: msgspec.Struct) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(record), type=type(record)) == record
    assert msgspec.json.decode(msgspec.json.encode(record), type=type(record)) == record


@given(ENTRIES)
def test_fields_of_a_newer_version_do_not_hinder(entry: DownloadEntry) -> None:
    raw = msgspec.to_builtins(entry)
    newer = msgspec.msgpack.encode({**raw, "field_of_tomorrow": [1, 2, 3]})
    assert msgspec.msgpack.decode(newer, type=DownloadEntry) == entry


@pytest.mark.parametrize("kind", [DownloadEntry, PartRecord, OfflineEntry, Attempt, ErrorRecord, Representation])
def test_every_field_that_is_added_later_has_a_default(kind: type[msgspec.Struct]) -> None:
    """Older records decode: only what stood in the first version may be required."""
    first = {"id", "sources", "folder", "part_name", "final_name", "chunk_bytes", "path", "size", "blake3"}
    first |= {"number", "started_at", "code", "message"}
    required = {field.name for field in msgspec.structs.fields(kind) if field.required}
    assert required <= first


def test_a_request_tells_no_secret() -> None:
    """M24."""
    request = DownloadRequest(
        url="https://h/f?sig=SECRET", secret_headers=(("X", "SECRET"),), headers=(("C", "SECRET"),)
    )
    assert "SECRET" not in repr(request)
    assert "SECRET" not in f"{request} {request!s}"


@pytest.mark.parametrize(
    ("representation", "comparable"),
    [
        (Representation(), False),
        (Representation(length=5), False),
        (Representation(last_modified="x"), False),
        (Representation(length=5, last_modified="x"), True),
        (Representation(etag='"x"'), True),
    ],
)
def test_what_can_be_compared(representation: Representation, comparable: bool) -> None:
    assert representation.comparable is comparable


@pytest.mark.parametrize(
    "wrong",
    [
        {"chunk_bytes": 1000}, {"chunk_bytes": 512}, {"small_chunk_bytes": 3 * 1024}, {"small_chunk_bytes": 1 << 21},
        {"buffer_count": 1}, {"commit_window_bytes": 1}, {"connections_per_entry": -1}, {"connections_per_entry": 99},
        {"idle_timeout_s": -1.0}, {"free_space_reserve_bytes": -1},
    ],
)  # fmt: skip
def test_a_configuration_that_cannot_work_is_refused(wrong: dict[str, float]) -> None:
    """H12."""
    with pytest.raises(InvalidRequest, match=next(iter(wrong))):
        Config(**wrong)  # type: ignore[arg-type]
