"""Which entries may use the line as it is: one verdict for all that have the same policy, and so one for thousands.

Pure but for the two clocks it is given. The queue holds back whole kinds of entries, so that a line that goes away
costs nothing for those that wait; only what runs is paused (:mod:`engine.control.line_watch`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple, Protocol

import msgspec

from engine.control.queue import host_of
from engine.errors import MeteredLine, NoRoute
from engine.model.line_policy import ALLOWED, LinePolicy, Verdict, allowed, narrowed
from engine.model.lines import UNKNOWN_LINE, Line
from engine.model.states import Reason
from engine.net.addresses import is_here
from engine.net.binding import Leave

CLOCK_LOOK_S = 60.0  # how soon hours notice a wall clock that was set, or a night that the machine slept through


class Wanting(Protocol):
    """What an entry's record, or the line of it that the queue knows, says of its policy."""

    @property
    def id(self) -> str:
        """Its id."""

    @property
    def sources(self) -> Sequence[str]:
        """Its URLs."""

    @property
    def bytes_total(self) -> int | None:
        """Its size, once it is known."""

    @property
    def expected_length(self) -> int | None:
        """Its size, as it was asked for."""

    @property
    def line(self) -> LinePolicy:
        """Its own policy."""


class _Kind(NamedTuple):
    """Entries that share their verdicts. ``here``: their sources are this machine's own, and need no line."""

    policy: LinePolicy
    here: bool


class _State(msgspec.Struct):
    """``verdict``: of the line as it is. ``refusal``: the one before, while the line is ``settling``: until that
    time."""

    verdict: Verdict
    refusal: Verdict = ALLOWED
    settling: float | None = None


class LineGate:
    """``policy``: the engine's; what it leaves open is as ``configured``. ``now`` is wall time, ``clock`` the monotonic
    one that settling goes by. A kind that was closed opens ``settle_s()`` after it may: a line that flaps would start
    and stop everything."""

    def __init__(
        self,
        policy: LinePolicy,
        configured: LinePolicy,
        now: Callable[[], float],
        clock: Callable[[], float],
        settle_s: Callable[[], float] = lambda: 0.0,
    ) -> None:
        self.line = UNKNOWN_LINE
        self.policy = policy.over(configured)
        self._configured = configured
        self._now = now
        self._clock = clock
        self._settle_s = settle_s
        self.parked: dict[str, None] = {}  # entries that are PAUSED for the line, or about to be
        self.freed: Callable[[], None] = lambda: None  # whoever resumes them is told of one that need not wait
        self._sizes: dict[str, float] = {}  # of entries for which it matters, and that have no record of it yet
        self._led_away: dict[str, tuple[str, ...]] = {}  # entries whose sources, all here, led to another machine
        self._kinds: dict[_Kind, int] = {}
        self._by_own: dict[tuple[LinePolicy, bool], int] = {}  # what needs no second look: a hundred thousand are asked
        self._states: list[_State] = []

    @property
    def kinds(self) -> int:
        """How many there are."""
        return len(self._states)

    def kind_of(self, entry: Wanting) -> int:
        """The number of the entry's kind. One that is new is judged, and is open or not, at once."""
        own = entry.line, self.needs_line(entry)
        number = self._by_own.get(own)
        if number is not None:
            return number
        policy = entry.line.over(self.policy)
        kind = _Kind(narrowed(policy, self._size(entry)), not own[1])
        number = self._kinds.setdefault(kind, len(self._kinds))
        if number == len(self._states):
            self._states.append(_State(self._judge(kind)))
        if not policy.metered_bytes_max:  # whatever its size
            self._by_own[own] = number
        return number

    def wants_size(self, entry: Wanting) -> bool:
        """Whether it would make a difference to know the entry's size."""
        return bool(entry.line.over(self.policy).metered_bytes_max) and self._size(entry) is None

    def learn(self, entry: Wanting, size: float) -> None:
        """The entry has that many bytes; infinite when its source does not tell."""
        if entry.line.over(self.policy).metered_bytes_max:
            self._sizes[entry.id] = size

    def held(self, entry: Wanting) -> Verdict:
        """Why the entry has to wait now; one that allows it when it need not."""
        state = self._states[self.kind_of(entry)]
        return state.verdict if state.settling is None else state.refusal

    def paused(self, entry: Wanting) -> None:
        """The entry's attempt ended in a pause for the line, which is on record since this moment. A line that came
        back before that passed it by: then nothing else would look at it."""
        self.parked[entry.id] = None
        if self.held(entry).allowed:
            self.freed()

    def needs_line(self, entry: Wanting) -> bool:
        """Whether any source of the entry is on another machine, or led to one."""
        if any(not is_here(host_of(url)) for url in entry.sources):
            return True
        return bool(self._led_away) and self._led_away.get(entry.id) == tuple(entry.sources)

    def leave_of(self, entry: Wanting) -> Leave | None:
        """What is asked before an entry that needs no line is led beyond this machine, by a redirect or a proxy. None
        for one that needs a line: it was judged by that before it began."""
        return None if self.needs_line(entry) else partial(self._leave, entry)

    def closed(self) -> frozenset[int]:
        """The kinds that have to wait."""
        return frozenset(
            kind for kind, state in enumerate(self._states) if state.settling is not None or not state.verdict.allowed
        )

    def set_policy(self, policy: LinePolicy) -> None:
        """This is the engine's policy from now on; who waits has to be given its kind anew."""
        self.policy = policy.over(self._configured)
        self._by_own.clear()

    def update(self, line: Line) -> None:
        """This is the line from now on."""
        first_word = self.line.metered is None  # nothing has settled that was not known
        self.line = line
        self.look(at_once=first_word)

    def look(self, *, at_once: bool = False) -> None:
        """Judge all kinds by the line and the time as they are. ``at_once``: what may go on does not settle first."""
        clock = self._clock()
        for kind, state in zip(self._kinds, self._states, strict=True):
            verdict = self._judge(kind)
            if not verdict.allowed:
                state.settling = None
            elif not state.verdict.allowed:
                state.settling, state.refusal = clock + self._settle_s(), state.verdict
            if state.settling is not None and (at_once or state.settling <= clock):
                state.settling = None
            state.verdict = verdict

    def next_look_s(self) -> float:
        """In how many seconds the clock alone may change a verdict: infinite when it cannot."""
        now, clock = self._now(), self._clock()
        waits = [state.settling - clock for state in self._states if state.settling is not None]
        ends = [state.verdict.until - now for state in self._states if state.verdict.until is not None]
        if ends:
            waits.append(min(CLOCK_LOOK_S, *ends))
        return max(0.0, min(waits, default=math.inf))

    def _size(self, entry: Wanting) -> float | None:
        known = (self._sizes.get(entry.id), entry.bytes_total, entry.expected_length)
        return next((size for size in known if size is not None), None)

    def _leave(self, entry: Wanting) -> str:
        """The interface to go through. From now on the entry needs a line, so that it waits, and is paused, with its
        like. Raises MeteredLine or NoRoute when it has to wait."""
        self._led_away[entry.id] = tuple(entry.sources)
        verdict = self.held(entry)
        if verdict.allowed:
            return verdict.interface
        self.parked[entry.id] = None
        kind = MeteredLine if verdict.reason is Reason.METERED else NoRoute
        raise kind(f"it leads beyond this machine, and waits {verdict.why}")

    def _judge(self, kind: _Kind) -> Verdict:
        return allowed(kind.policy, self.line, self._now(), here=kind.here)
