"""What to do after an error: one table from error code to policy, one pure decision."""

from __future__ import annotations

import random
from enum import Enum

import msgspec

from engine.config import Config
from engine.errors import EngineError, TransferError
from engine.model.records import Attempt, ErrorRecord
from engine.model.states import Event, Reason

TRIES_DEFAULT = 8


class Loss(Enum):
    """What an error tells of the network: without it a try proves nothing against the source, and is not counted."""

    NONE = "none"
    SUGGESTED = "suggested"  # when every host that is tried fails so
    CERTAIN = "certain"


class Policy(msgspec.Struct, frozen=True):
    """How a class of errors is met.

    ``tries``: so many in a row without one committed chunk, then the entry is FAILED; 1 fails it at once. ``parks``: it
    is PAUSED for that reason instead, until somebody resumes it. ``base_s`` and ``cap_s`` bound the delay, see
    :func:`decide`; None for the configured ones. ``untried``: nothing was asked of the source, so it is no try at all.
    """

    tries: int = TRIES_DEFAULT
    loss: Loss = Loss.NONE
    parks: Reason | None = None
    base_s: float | None = None
    cap_s: float | None = None
    untried: bool = False


RETRY = Policy()
FAIL = Policy(tries=1)
# What seldom changes within a minute, and what an answer that is wrong three times will be a fourth time.
SELDOM = Policy(tries=4)
DOUBTFUL = Policy(tries=3)

# By error code. Of a status, its code's policy counts only if the status is retryable (408 of http_4xx is, 418 not).
POLICIES: dict[str, Policy] = {
    "network": RETRY,
    "no_route": Policy(loss=Loss.CERTAIN),
    "dns": SELDOM,
    "resolver": Policy(loss=Loss.SUGGESTED),
    "refused": SELDOM,
    "timeout": Policy(loss=Loss.SUGGESTED),
    "connection_lost": RETRY,
    "metered": Policy(tries=1, parks=Reason.METERED),
    "stalled": Policy(loss=Loss.SUGGESTED),
    "tls": FAIL,
    "address_refused": FAIL,
    "proxy_error": SELDOM,
    "proxy_auth": FAIL,
    "server": FAIL,
    "protocol": DOUBTFUL,
    "http_status": FAIL,
    "http_4xx": RETRY,
    "http_5xx": RETRY,
    "auth": FAIL,
    "proxy": FAIL,
    "not_found": FAIL,
    "gone": FAIL,
    "rate_limited": RETRY,
    "host_resting": Policy(untried=True),
    "bad_range": DOUBTFUL,
    "redirect": FAIL,
    "encoded": FAIL,
    "unverifiable_length": FAIL,
    "changed": DOUBTFUL,
    "integrity": FAIL,
    "corrupt_body": DOUBTFUL,
    "change_refused": FAIL,
    "wrong_type": FAIL,
    "captive_portal": Policy(loss=Loss.CERTAIN),  # the network itself answers: that proves nothing of the source
    "needs_url": Policy(tries=1, parks=Reason.NEEDS_URL),
    "refresh_failed": SELDOM,
    "io": FAIL,
    "no_space": Policy(tries=1, parks=Reason.DISK),
    "quota": Policy(tries=1, parks=Reason.QUOTA),
    "too_many_files": Policy(base_s=2.0),  # others have to close theirs first
    "read_only": FAIL,
    "permission": FAIL,
    "target_exists": FAIL,
    "target_gone": FAIL,
    "target_invalid": FAIL,
    "part_lost": DOUBTFUL,
    "part_busy": SELDOM,
    "not_mounted": FAIL,
    "too_big": FAIL,
    "internal": FAIL,
    "poison": FAIL,
}
# The same for who shows how many tries there will be.
TRIES_WITHOUT_PROGRESS: dict[str, int] = {
    code: policy.tries for code, policy in POLICIES.items() if policy.tries > 1 and not policy.untried
}


def policy_of(error: EngineError) -> Policy:
    """The policy of the error's code, or of the nearest class above it that has one. An error that cannot be retried
    fails, or parks."""
    codes = (error.code, *(kind.code for kind in type(error).__mro__ if issubclass(kind, EngineError)))
    known = next((POLICIES[code] for code in codes if code in POLICIES), FAIL)
    if error.retryable:
        return known if known.tries > 1 or known.parks else RETRY
    return known if known.parks else FAIL


class Decision(msgspec.Struct, frozen=True):
    """What happens to the entry: FAIL, PAUSE, or PREEMPT to be tried again after ``delay_s`` seconds; and why."""

    event: Event
    reason: Reason
    delay_s: float | None = None
    tries_max: int = 0


class Tries(msgspec.Struct, frozen=True):
    """An entry's tries in a row without one committed chunk: ``failed`` decide how long it waits, those that ``count``
    when it gives up."""

    failed: int = 0
    count: int = 0

    def after(self, error: EngineError, *, progress: bool, all_fail: bool) -> Tries:
        """One more has failed. ``progress``: it committed what was not held before, which begins the count
        anew. ``all_fail``: so does every host that is tried."""
        if policy_of(error).untried:
            return self
        burnt = 0 if means_loss(error, all_fail=all_fail) else 1
        if progress:
            return Tries(1, burnt)
        return Tries(self.failed + 1, self.count + burnt)


def means_loss(error: EngineError, *, all_fail: bool) -> bool:
    """Whether the network is gone, rather than this one source."""
    loss = policy_of(error).loss
    return loss is Loss.CERTAIN or (loss is Loss.SUGGESTED and all_fail)


def decide(
    error: EngineError,
    tries: int,
    config: Config,
    rng: random.Random,
    *,
    failed: int | None = None,
    all_fail: bool = False,
) -> Decision:
    """After a try that ended with ``error``, the ``tries``-th in a row (from 1) that counts and committed nothing, the
    ``failed``-th in a row at all (None: the same).

    Full jitter: uniform in 0 .. base x 2^(failed-1), at most the cap; a server's Retry-After is the least delay and
    gets up to 10 % more, so that clients told the same time do not come back at once.
    """
    policy = policy_of(error)
    if policy.parks is not None:
        return Decision(Event.PAUSE, policy.parks)
    lost = means_loss(error, all_fail=all_fail)
    if tries >= policy.tries and not lost:
        return Decision(Event.FAIL, Reason.ERROR)
    base = config.backoff_base_s if policy.base_s is None else policy.base_s
    cap = config.backoff_max_s if policy.cap_s is None else policy.cap_s
    in_a_row = tries if failed is None else failed
    delay = rng.uniform(0.0, min(cap, base * 2.0 ** min(63, max(0, in_a_row - 1))))
    asked = error.retry_after_s if isinstance(error, TransferError) else None
    if asked is not None:
        asked = min(max(asked, 0.0), config.retry_after_s_max)
        delay = max(delay, asked * rng.uniform(1.0, 1.1))
    return Decision(Event.PREEMPT, Reason.NETWORK if lost else Reason.BACKOFF, delay, policy.tries)


def history(attempts: tuple[Attempt, ...], ended: Attempt, keep: int) -> tuple[Attempt, ...]:
    """The last ``keep`` attempts, ``ended`` the newest. One without network takes the place of another just before it:
    a night without it is one line, and does not push out what was learned of the source."""
    if attempts and _idle(attempts[-1].error, attempts[-1]) and _idle(ended.error, ended):
        attempts = attempts[:-1]
    return (*attempts, ended)[-keep:]


def _idle(error: ErrorRecord | None, attempt: Attempt) -> bool:
    if error is None or attempt.bytes_fetched or error.code not in POLICIES:
        return False
    return POLICIES[error.code].loss is Loss.CERTAIN


def not_before(next_retry_at: float | None, now: float, clock: float, config: Config) -> float | None:
    """When, by trio's ``clock``, an entry may be tried again that waits until a time of day; None: at once. A wall
    clock that was set back must not keep it waiting for ever."""
    if next_retry_at is None or next_retry_at <= now:
        return None
    return clock + min(next_retry_at - now, 1.1 * max(config.backoff_max_s, config.retry_after_s_max))
