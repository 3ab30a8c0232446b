"""Which line may be used, and when: a policy, a line and the time make one verdict. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from functools import lru_cache

import msgspec

from engine.errors import InvalidRequest
from engine.model.lines import Connectivity, Interface, Line
from engine.model.states import Reason

ANY_INTERFACE = "any"
NAME_CHARS_MAX = 15  # the kernel's, of an interface
WINDOWS_MAX = 24
_WINDOW = re.compile(r"(\d\d):(\d\d)-(\d\d):(\d\d)", re.ASCII)
_DAY_MINUTES = 24 * 60

# The pauses that the line's own change lifts.
LINE_REASONS = frozenset({Reason.NETWORK, Reason.METERED, Reason.HOURS})

Windows = tuple[tuple[int, int], ...]


class LinePolicy(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Which line may be used. What a request leaves open (None, empty) is the engine's to say.

    ``allow_metered``: also one that costs by the byte. ``metered_bytes_max``: on such a one only entries of at most so
    many bytes; 0 for any size. ``interfaces``: only these, by name or kind (``wifi``, ``ethernet``, ``cellular``,
    ``vpn``, ``any``), and traffic is bound to them. ``hours``: only at these times of the local day, such as
    ``22:00-06:00,12:00-13:00``.
    """

    allow_metered: bool | None = None
    metered_bytes_max: int | None = None
    interfaces: tuple[str, ...] = ()
    hours: str = ""

    @classmethod
    def of(cls, given: LinePolicy | Mapping[str, object]) -> LinePolicy:
        """The policy that was given, or whose fields were. Raises InvalidRequest for what is no such field."""
        if isinstance(given, LinePolicy):
            return given
        if strange := set(given) - set(cls.__struct_fields__):
            raise InvalidRequest(f"a line policy has no fields {sorted(map(str, strange))}")
        try:
            return msgspec.convert(given, cls)
        except msgspec.ValidationError as error:
            raise InvalidRequest(f"a line policy cannot be made of {dict(given)}: {error}") from error

    def over(self, engine: LinePolicy) -> LinePolicy:
        """This one, with the engine's where it says nothing."""
        return LinePolicy(
            allow_metered=engine.allow_metered if self.allow_metered is None else self.allow_metered,
            metered_bytes_max=engine.metered_bytes_max if self.metered_bytes_max is None else self.metered_bytes_max,
            interfaces=self.interfaces or engine.interfaces,
            hours=self.hours or engine.hours,
        )

    def check(self) -> None:
        """Raise InvalidRequest for what no line and no time can ever meet."""
        if not isinstance(self.allow_metered, bool | None):
            raise InvalidRequest(f"allow_metered must be True, False or None, not {self.allow_metered!r}")
        most = self.metered_bytes_max
        if most is not None and (isinstance(most, bool) or not isinstance(most, int) or not 0 <= most < 2**63):
            raise InvalidRequest(f"metered_bytes_max must be a number of bytes, not {most!r}")
        if not isinstance(self.interfaces, tuple) or not all(_is_name(name) for name in self.interfaces):
            raise InvalidRequest(f"interfaces must be names or kinds of interfaces, not {self.interfaces!r}")
        if not isinstance(self.hours, str):
            raise InvalidRequest(f"hours must be text such as 22:00-06:00, not {type(self.hours).__name__}")
        parse_hours(self.hours)


ANY_LINE = LinePolicy()


class Verdict(msgspec.Struct, frozen=True, kw_only=True):
    """``reason``: why not; NONE when the line may be used. ``until``: the time (seconds since the epoch) at which the
    answer may change by the clock alone. ``why``: what is waited for, to be read behind "waits". ``interface``: which
    one traffic is bound to; empty for any."""

    reason: Reason = Reason.NONE
    until: float | None = None
    why: str = ""
    interface: str = ""

    @property
    def allowed(self) -> bool:
        """Whether the line may be used."""
        return self.reason is Reason.NONE


ALLOWED = Verdict()


class _Case(msgspec.Struct, frozen=True):
    """What is judged. ``only``: the usable interfaces that the policy names; None when it names none."""

    policy: LinePolicy
    line: Line
    size: float
    only: tuple[Interface, ...] | None

    @property
    def metered(self) -> bool:
        """Whether the bytes would cost; not known yet counts as yes."""
        known = [self.line.metered is not False]
        if self.only is not None:
            known = [self.line.metered is not False if each.metered is None else each.metered for each in self.only]
        return all(known)


# The first that applies decides: what must be so, why not, and what is waited for.
_RULES: tuple[tuple[Callable[[_Case], bool], Reason, str], ...] = (
    (lambda case: not case.line.connected, Reason.NETWORK, "for a link to the network"),
    (
        lambda case: case.line.connectivity is Connectivity.PORTAL,
        Reason.NETWORK,
        "for a line that is not behind a captive portal (somebody has to sign in there)",
    ),
    (lambda case: case.only == (), Reason.NETWORK, "for one of the interfaces that it may use"),
    (lambda case: case.metered and case.policy.allow_metered is False, Reason.METERED, "for an unmetered line"),
    (
        lambda case: case.metered and 0 < (case.policy.metered_bytes_max or 0) < case.size,
        Reason.METERED,
        "for an unmetered line, for it is too big for a metered one",
    ),
)


def allowed(policy: LinePolicy, line: Line, now: float, size: float | None = None, *, here: bool = False) -> Verdict:
    """Whether an entry of ``size`` bytes may be fetched over the ``line`` at the time ``now`` (seconds since the
    epoch). ``size``: None when it is not known yet, infinite when nobody can tell. ``here``: its source is this very
    machine, which needs no line."""
    is_open, until = within(parse_hours(policy.hours), now)
    if not is_open:
        return Verdict(reason=Reason.HOURS, until=until, why=f"for its hours, {policy.hours}")
    if here:
        return Verdict(until=until)
    only = None
    if policy.interfaces and ANY_INTERFACE not in policy.interfaces:
        only = tuple(each for each in line.interfaces if each.usable and _named(each, policy.interfaces))
    case = _Case(policy, line, 0 if size is None else size, only)
    for applies, reason, why in _RULES:
        if applies(case):
            return Verdict(reason=reason, until=until, why=why)
    return Verdict(until=until, interface=_best(only, line).name if only else "")


def within(windows: Windows, now: float) -> tuple[bool, float | None]:
    """Whether ``now`` is inside one of the windows of the local day, and when one begins or ends next; always, without
    windows."""
    if not windows:
        return True, None
    local = datetime.fromtimestamp(now)  # noqa: DTZ006  # the wall clock's time, which is what hours are of
    minute = local.hour * 60 + local.minute
    is_open = any(start <= minute < end if start < end else (minute >= start or minute < end) for start, end in windows)
    midnight = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    edges = {edge % _DAY_MINUTES for window in windows for edge in window}
    times = [
        (midnight + timedelta(days=days, hours=edge // 60, minutes=edge % 60)).timestamp()
        for days in range(3)
        for edge in edges
    ]
    return is_open, min((time for time in times if time > now), default=None)


@lru_cache(maxsize=256)
def parse_hours(text: str) -> Windows:
    """The windows of ``22:00-06:00,12:00-13:00`` as minutes of the day; none for no text. Raises InvalidRequest."""
    if not text:
        return ()
    windows = []
    for part in text.split(","):
        match = _WINDOW.fullmatch(part.strip())
        if match is None:
            raise InvalidRequest(f"hours are given as 22:00-06:00, several with commas, not {text!r}")
        first, first_minute, last, last_minute = map(int, match.groups())
        start, end = first * 60 + first_minute, last * 60 + last_minute
        if first_minute > 59 or last_minute > 59 or start >= _DAY_MINUTES or end > _DAY_MINUTES or start == end:
            raise InvalidRequest(f"{part.strip()} is no part of a day")
        windows.append((start, end))
    if len(windows) > WINDOWS_MAX:
        raise InvalidRequest(f"at most {WINDOWS_MAX} windows of hours can be given")
    return tuple(windows)


def narrowed(policy: LinePolicy, size: float | None) -> LinePolicy:
    """What a complete policy amounts to for an entry of this size (None: not known yet): one that is too big for a
    metered line may not use one."""
    most = policy.metered_bytes_max or 0
    if policy.allow_metered and most and size is None:
        return policy
    too_big = most and size is not None and size > most
    return msgspec.structs.replace(
        policy, metered_bytes_max=0, allow_metered=bool(policy.allow_metered and not too_big)
    )


def _named(interface: Interface, names: tuple[str, ...]) -> bool:
    return interface.name in names or interface.kind.value in names


def _best(only: tuple[Interface, ...], line: Line) -> Interface:
    """One that costs nothing before one that does, one with a default route before one without, and then by name, so
    that the choice does not change by itself."""
    return min(
        only,
        key=lambda each: (line.metered is not False if each.metered is None else each.metered,
                          not each.default_route, each.name),
    )  # fmt: skip


def _is_name(name: object) -> bool:
    if not isinstance(name, str) or not 1 <= len(name) <= NAME_CHARS_MAX:
        return False
    return name.isprintable() and not set(name) & set(" /")
