"""Why an entry is as it is, since when, and what would move it: one table over states and reasons. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple

import msgspec

from engine.model.line_policy import ALLOWED, LINE_REASONS, Verdict
from engine.model.records import DownloadEntry
from engine.model.states import Reason, State


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """One entry explained. ``since``: when it came into its state. ``next_try_at``: when it is tried by itself, if it
    waits for a time. ``text``: all of it in a sentence or two, for people; without anything secret. ``waits_for``: what
    the line keeps it waiting for, if it does."""

    id: str
    state: State
    reason: Reason
    since: float
    what_would_move_it: str
    next_try_at: float | None
    text: str
    waits_for: str = ""


class _Meaning(NamedTuple):
    """``is_so``: what the entry is doing; ``moved_by``: what would move it on, ``moved_by_alone`` when no engine works
    on its root (the same when empty)."""

    is_so: str
    moved_by: str
    moved_by_alone: str = ""


_ENGINE = "an engine on its root: `run`, or asking for it again"

# By state and reason; by state alone (None) for any other reason.
MEANINGS: dict[tuple[State, Reason | None], _Meaning] = {
    (State.PENDING, None): _Meaning("waits for its turn", "a free place in the running engine", _ENGINE),
    (State.PENDING, Reason.BACKOFF): _Meaning(
        "waits before it is tried again", "time, or `retry` for a try at once", _ENGINE
    ),
    (State.PENDING, Reason.NETWORK): _Meaning(
        "waits for the network",
        "the network's return: it is tried again from time to time, and no try is lost",
        _ENGINE,
    ),
    (State.PENDING, Reason.PREEMPTED): _Meaning(
        "made way for a more urgent one", "a free place in the running engine", _ENGINE
    ),
    (State.PENDING, Reason.SHUTDOWN): _Meaning(
        "was running when its engine was closed; what it had is kept", "a free place in the running engine", _ENGINE
    ),
    (State.PENDING, Reason.RECOVERED): _Meaning(
        "was running when its process ended; what was committed is kept", "a free place in the running engine", _ENGINE
    ),
    (State.PENDING, Reason.NEEDS_CREDENTIALS): _Meaning(
        "waits for header fields that are never stored", "asking for it again with its secret headers"
    ),
    (State.PENDING, Reason.NEEDS_URL): _Meaning("waits for a URL that works", "asking for it again with another URL"),
    (State.IN_PROGRESS, None): _Meaning(
        "is being downloaded",
        "its own progress; `pause` or `cancel`",
        "the next start of an engine on its root: its process is gone, what was committed is kept",
    ),
    (State.PAUSED, None): _Meaning("is paused", "`resume`, or asking for it again"),
    (State.PAUSED, Reason.USER): _Meaning("was paused by a user", "`resume`, or asking for it again"),
    (State.PAUSED, Reason.NEEDS_URL): _Meaning(
        "waits for a URL that works; what it has is kept",
        "asking for it again with another URL, `resume`, or a start with a resolver",
    ),
    (State.PAUSED, Reason.NETWORK): _Meaning(
        "waits, for there is no network that it may use", "the network's return: it goes on by itself then", _ENGINE
    ),
    (State.PAUSED, Reason.METERED): _Meaning(
        "waits for an unmetered line",
        "such a line: it goes on by itself then; or asking for it again with metered ones allowed",
        _ENGINE,
    ),
    (State.PAUSED, Reason.HOURS): _Meaning(
        "waits for its hours", "time: it goes on by itself then; or asking for it again with other hours", _ENGINE
    ),
    (State.PAUSED, Reason.DISK): _Meaning(
        "is paused while its disk is full", "free space on its disk, or `resume`", "free space on its disk, and `run`"
    ),
    (State.PAUSED, Reason.QUOTA): _Meaning(
        "is paused while its scope may not take as much",
        "a larger quota of its scope, the removal of something in it, or `resume`",
        "a larger quota of its scope or the removal of something in it, and `run`",
    ),
    (State.FAILED, None): _Meaning("failed and is not tried again", "`retry`, once the cause is gone"),
    (State.CANCELLED, None): _Meaning("was cancelled", "asking for it again: it begins anew"),
    (State.COMPLETED, None): _Meaning("is complete", "nothing; `verify --repair` mends its file when that is damaged"),
}
_UNKNOWN = _Meaning("is in a state that only a newer version knows", "a newer version of this program")


def explain(
    entry: DownloadEntry,
    *,
    working: bool = True,
    held: Verdict = ALLOWED,
    rest: str = "",
    rests_until: float | None = None,
) -> Explanation:
    """Explain the entry. ``working``: whether an engine works on its root now. ``held``: why the line keeps it waiting,
    where that is known. ``rest``: why nothing is asked of its host, until ``rests_until`` at the earliest; None: only
    few ask it, and nobody knows when this one may."""
    state, reason = entry.state, entry.state_reason
    meaning = MEANINGS.get((state, reason)) or MEANINGS.get((state, None)) or _UNKNOWN
    moved_by = meaning.moved_by if working else meaning.moved_by_alone or meaning.moved_by
    is_so, waits_for = meaning.is_so, ""
    if not held.allowed and (state is State.PENDING or (state is State.PAUSED and reason in LINE_REASONS)):
        waits_for = held.why
        is_so, moved_by = f"waits {waits_for}", "the line, or the time: it goes on by itself then"
    since = {State.PAUSED: entry.paused_at, State.COMPLETED: entry.completed_at}.get(state)
    since = entry.updated_at if since is None else since
    next_try_at = entry.next_retry_at if state is State.PENDING else None
    if rest and state is State.PENDING and held.allowed:
        is_so, moved_by = f"waits, for {rest}", "time; entries of other hosts go on"
        next_try_at = None if rests_until is None else max(rests_until, next_try_at or 0.0)
    return Explanation(
        id=entry.id,
        state=state,
        reason=reason,
        since=since,
        what_would_move_it=moved_by,
        next_try_at=next_try_at,
        waits_for=waits_for,
        text=_text(entry, is_so, moved_by, since, next_try_at),
    )


def _text(entry: DownloadEntry, is_so: str, moved_by: str, since: float, next_try_at: float | None) -> str:
    told = f"It {is_so}, since {_moment(since)}."
    if entry.state_reason is Reason.NEEDS_CREDENTIALS:
        told += f" They are {', '.join(entry.secret_header_names)}."
    if next_try_at is not None:
        told += f" It is tried again at {_moment(next_try_at)}."
    error = entry.last_error
    if error is not None and entry.state in {State.PENDING, State.FAILED, State.PAUSED}:
        told += f" Its last error: {error.message} ({error.code}). {error.advice}".rstrip()
    return f"{told} What would move it: {moved_by}."


def _moment(at: float) -> str:
    """A time as UTC; a record may hold any number."""
    try:
        return datetime.fromtimestamp(at, UTC).isoformat(sep=" ", timespec="seconds")
    except (OverflowError, ValueError, OSError):
        return f"{at} s"
