"""Which line may be used, and when: the whole table, the hours of a day, what a changed line does to connections."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import datetime

import msgspec
import pytest

from engine.errors import InvalidRequest
from engine.model.line_policy import LinePolicy, allowed, narrowed, parse_hours, within
from engine.model.lines import Connectivity, Interface, Line, LinkKind, moved
from engine.model.states import Reason

ETHERNET = Interface(
    name="eth0", kind=LinkKind.ETHERNET, up=True, routed=True, default_route=True, addresses=("10.0.0.2",)
)
WIFI = Interface(name="wlan0", kind=LinkKind.WIFI, up=True, routed=True, metered=True)
MODEM = Interface(name="wwan0", kind=LinkKind.CELLULAR, up=False, routed=False, metered=True)
HOME = Line(connected=True, interfaces=(ETHERNET, WIFI, MODEM))
PHONE = Line(connected=True, metered=True, interfaces=(WIFI,))
UNTOLD = Line(connected=True, metered=None)
PORTAL = Line(connected=True, connectivity=Connectivity.PORTAL)
NONE = Line(connected=False, interfaces=(MODEM,))
BARE = Line(connected=True)

ANY = LinePolicy()
FREE = LinePolicy(allow_metered=False)
CAPPED = LinePolicy(allow_metered=True, metered_bytes_max=100)


def only(*names: str, allow_metered: bool | None = None) -> LinePolicy:
    return LinePolicy(interfaces=names, allow_metered=allow_metered)


@pytest.mark.parametrize(
    ("policy", "line", "size", "here", "reason", "interface"),
    [
        (ANY, HOME, None, False, Reason.NONE, ""),
        (ANY, PHONE, 10**12, False, Reason.NONE, ""),
        (ANY, NONE, None, False, Reason.NETWORK, ""),
        (ANY, PORTAL, None, False, Reason.NETWORK, ""),
        (ANY, msgspec.structs.replace(HOME, connectivity=Connectivity.LIMITED), None, False, Reason.NONE, ""),
        # This machine's own sources need no line, whatever there is of one.
        (FREE, NONE, None, True, Reason.NONE, ""),
        (only("eth0"), NONE, None, True, Reason.NONE, ""),
        (FREE, HOME, None, False, Reason.NONE, ""),
        (FREE, PHONE, None, False, Reason.METERED, ""),
        (FREE, UNTOLD, None, False, Reason.METERED, ""),
        (FREE, NONE, None, False, Reason.NETWORK, ""),
        (CAPPED, PHONE, 100, False, Reason.NONE, ""),
        (CAPPED, PHONE, 101, False, Reason.METERED, ""),
        (CAPPED, PHONE, None, False, Reason.NONE, ""),
        (CAPPED, PHONE, float("inf"), False, Reason.METERED, ""),
        (CAPPED, HOME, 101, False, Reason.NONE, ""),
        (LinePolicy(metered_bytes_max=0), PHONE, 10**12, False, Reason.NONE, ""),
        (only("eth0"), HOME, None, False, Reason.NONE, "eth0"),
        (only("ethernet"), HOME, None, False, Reason.NONE, "eth0"),
        (only("any"), HOME, None, False, Reason.NONE, ""),
        (only("wlan0"), HOME, None, False, Reason.NONE, "wlan0"),
        (only("wwan0"), HOME, None, False, Reason.NETWORK, ""),
        (only("vpn"), HOME, None, False, Reason.NETWORK, ""),
        # Nothing is known of interfaces: none of them is taken for one that may be used.
        (only("eth0"), BARE, None, False, Reason.NETWORK, ""),
        # What counts is the interface that traffic is bound to, the free one of several.
        (only("wlan0", allow_metered=False), HOME, None, False, Reason.METERED, ""),
        (only("wifi", "ethernet", allow_metered=False), HOME, None, False, Reason.NONE, "eth0"),
    ],
)
def test_the_first_rule_that_applies_decides(
    policy: LinePolicy, line: Line, size: float | None, here: bool, reason: Reason, interface: str
) -> None:
    verdict = allowed(policy, line, 0.0, size, here=here)

    assert (verdict.reason, verdict.interface) == (reason, interface)
    assert verdict.allowed == (reason is Reason.NONE)
    assert bool(verdict.why) != verdict.allowed


def at(text: str) -> float:
    return datetime.fromisoformat(f"2026-11-23 {text}").timestamp()


@pytest.fixture(params=["UTC", "Asia/Kolkata"])
def _zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Hours are of the local day."""
    monkeypatch.setenv("TZ", request.param)
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.usefixtures("_zone")
@pytest.mark.parametrize(
    ("hours", "now", "is_open", "until"),
    [
        ("", "12:00", True, None),
        ("22:00-06:00", "21:59", False, "22:00"),
        ("22:00-06:00", "22:00", True, "06:00"),
        ("22:00-06:00", "05:59", True, "06:00"),
        ("22:00-06:00", "06:00", False, "22:00"),
        ("08:30-09:00, 12:00-13:00", "09:00", False, "12:00"),
        ("08:30-09:00,12:00-13:00", "12:30", True, "13:00"),
        ("00:00-24:00", "23:59", True, "00:00"),
    ],
)
def test_hours_open_and_close_by_the_local_clock(hours: str, now: str, is_open: bool, until: str | None) -> None:
    opened, edge = within(parse_hours(hours), at(now))

    assert opened == is_open
    assert (edge is None) == (until is None)
    if edge is not None:
        assert datetime.fromtimestamp(edge).astimezone().strftime("%H:%M") == until
        assert edge > at(now)
    verdict = allowed(LinePolicy(hours=hours), HOME, at(now), here=True)
    assert verdict.reason == (Reason.NONE if is_open else Reason.HOURS), "this machine's own sources, too"
    assert verdict.until == edge


def test_the_night_of_a_changed_clock_has_its_edges_where_the_clock_shows_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    try:
        before = datetime.fromisoformat("2026-03-28 23:00").timestamp()  # at 02:00 it becomes 03:00
        assert within(parse_hours("22:00-06:00"), before) == (True, before + 6 * 3600)
        before = datetime.fromisoformat("2026-10-24 23:00").timestamp()  # at 03:00 it becomes 02:00
        assert within(parse_hours("22:00-06:00"), before) == (True, before + 8 * 3600)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(
    "fields",
    [
        {"hours": "22-6"}, {"hours": "22:00"}, {"hours": "24:00-01:00"}, {"hours": "10:60-11:00"},
        {"hours": "10:00-10:00"}, {"hours": "10:00-25:00"}, {"hours": "1:00-2:00"}, {"hours": None},
        {"hours": ",".join(["10:00-11:00"] * 25)},
        {"interfaces": ["eth0"]}, {"interfaces": ("",)}, {"interfaces": ("x" * 16,)}, {"interfaces": ("a/b",)},
        {"interfaces": (1,)}, {"interfaces": "eth0"},
        {"metered_bytes_max": -1}, {"metered_bytes_max": True}, {"metered_bytes_max": 1.5},
        {"metered_bytes_max": 2**63}, {"allow_metered": 1}, {"allow_metered": []},
    ],
)  # fmt: skip
def test_what_no_line_can_meet_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        LinePolicy(**fields).check()  # type: ignore[arg-type]  # that is the point


@pytest.mark.parametrize("given", [{"allow_metered": False, "interfaces": ["wifi"]}, {}])
def test_a_policy_may_come_as_its_fields(given: dict[str, object]) -> None:
    policy = LinePolicy.of(given)

    policy.check()
    assert policy == LinePolicy.of(policy) == LinePolicy(**{**given, "interfaces": tuple(given.get("interfaces", ()))})  # type: ignore[arg-type]


@pytest.mark.parametrize("given", [{"wifi": True}, {1: 2}, {"allow_metered": "no"}, {"interfaces": [1]}])
def test_fields_that_are_none_of_a_policy_are_refused(given: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match="line policy"):
        LinePolicy.of(given)


def test_what_a_request_leaves_open_is_the_engines_to_say() -> None:
    engine = LinePolicy(allow_metered=True, metered_bytes_max=5, interfaces=("eth0",), hours="22:00-06:00")

    assert ANY.over(engine) == engine
    own = LinePolicy(allow_metered=False, metered_bytes_max=0, interfaces=("any",), hours="00:00-24:00")
    assert own.over(engine) == own
    own.check()


@pytest.mark.parametrize(
    ("size", "policy"),
    [
        (None, CAPPED),
        (100, LinePolicy(allow_metered=True, metered_bytes_max=0)),
        (101, LinePolicy(allow_metered=False, metered_bytes_max=0)),
    ],
)
def test_entries_of_one_policy_and_different_sizes_are_of_few_kinds(size: int | None, policy: LinePolicy) -> None:
    assert narrowed(CAPPED, size) == policy


def test_a_policy_that_says_nothing_takes_no_room() -> None:
    assert msgspec.json.encode(ANY) == b"{}"


OTHER_ADDRESS = msgspec.structs.replace(ETHERNET, addresses=("10.0.0.3",))
MORE_ADDRESSES = msgspec.structs.replace(ETHERNET, addresses=("10.0.0.2", "10.0.0.3"))
BACKUP = msgspec.structs.replace(ETHERNET, default_route=False)
NEW_DEFAULT = msgspec.structs.replace(WIFI, default_route=True)


@pytest.mark.parametrize(
    ("before", "now", "is_so"),
    [
        ((ETHERNET,), (ETHERNET,), False),
        ((ETHERNET,), (ETHERNET, WIFI), False),
        ((ETHERNET,), (OTHER_ADDRESS,), True),
        ((ETHERNET,), (MORE_ADDRESSES,), False),
        ((MORE_ADDRESSES,), (OTHER_ADDRESS,), True),
        ((ETHERNET, WIFI), (BACKUP, NEW_DEFAULT), True),
        ((WIFI,), (ETHERNET, WIFI), False),
        ((ETHERNET,), (), False),  # no line at all: that is another matter
    ],
)
def test_connections_are_dead_when_their_address_is_gone_or_the_way_is_another(
    before: tuple[Interface, ...], now: tuple[Interface, ...], is_so: bool
) -> None:
    def line(interfaces: tuple[Interface, ...]) -> Line:
        return Line(connected=bool(interfaces), interfaces=interfaces)

    assert moved(line(before), line(now)) is is_so
