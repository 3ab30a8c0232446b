"""The gate: kinds of entries, what closes them at once and what opens them once the line has settled."""

from __future__ import annotations

import math
from datetime import UTC, datetime, tzinfo
from typing import Any

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.control.line_gate import CLOCK_LOOK_S, LineGate
from engine.errors import MeteredLine, NoRoute
from engine.model.line_policy import ANY_LINE, LinePolicy
from engine.model.lines import Interface, Line
from engine.model.records import DownloadEntry
from engine.model.states import Reason
from engine.net.addresses import is_here
from tests.support.runs import Stage

CONNECTED, GONE, METERED = Line(connected=True), Line(connected=False), Line(connected=True, metered=True)
CONFIGURED = LinePolicy(allow_metered=True, metered_bytes_max=0)
NIGHT = 22 * 3600.0


class Utc(datetime):
    """A day in Greenwich, wherever the test runs."""

    @classmethod
    def fromtimestamp(cls, timestamp: float, tz: tzinfo | None = None) -> Utc:
        return super().fromtimestamp(timestamp, tz or UTC)


class Gate:
    """A gate and its clocks."""

    def __init__(self, policy: LinePolicy = ANY_LINE, settle_s: float = 2.0) -> None:
        self.clock = 0.0
        self.wall = 0.0
        self.gate = LineGate(policy, CONFIGURED, lambda: self.wall, lambda: self.clock, lambda: settle_s)
        self.gate.update(CONNECTED)

    def after(self, seconds: float) -> LineGate:
        self.clock += seconds
        self.wall += seconds
        self.gate.look()
        return self.gate


def entry(entry_id: str = "a", url: str = "http://cdn.example/x", **fields: Any) -> DownloadEntry:
    return DownloadEntry(id=entry_id, sources=(url,), **fields)


def test_thousands_of_one_policy_are_one_kind() -> None:
    gate = Gate().gate
    minding = LinePolicy(allow_metered=False)

    kinds = [gate.kind_of(entry(str(number), line=policy)) for number in range(1000) for policy in (ANY_LINE, minding)]

    assert len(set(kinds)) == gate.kinds == 2
    assert gate.kind_of(entry(line=LinePolicy(allow_metered=True))) == kinds[0]


def test_a_line_that_goes_closes_at_once_and_opens_once_it_has_settled() -> None:
    world = Gate()
    one = entry()
    gate = world.gate
    kind = gate.kind_of(one)
    assert gate.held(one).allowed
    gate.update(GONE)
    assert gate.held(one).reason is Reason.NETWORK
    assert gate.closed() == {kind}
    gate.update(CONNECTED)
    assert gate.held(one).reason is Reason.NETWORK, "it may flap"
    assert gate.next_look_s() == 2.0
    assert world.after(1.9).closed() == {kind}
    assert world.after(0.2).closed() == frozenset()
    assert gate.held(one).allowed
    assert gate.next_look_s() == math.inf, "nothing is looked at by the clock"


def test_a_line_that_flaps_stays_closed_until_it_is_quiet() -> None:
    world = Gate()
    one = entry()
    world.gate.kind_of(one)
    for _ in range(100):
        world.after(0.1).update(GONE)
        world.after(0.0).update(CONNECTED)
        assert not world.gate.held(one).allowed
    assert world.after(2.0).held(one).allowed


def test_changes_that_do_not_matter_do_not_keep_it_from_settling() -> None:
    world = Gate()
    world.gate.kind_of(entry())
    world.gate.update(GONE)
    world.gate.update(CONNECTED)
    world.after(1.0).update(METERED)
    world.after(0.9).update(CONNECTED)
    assert world.after(0.1).held(entry()).allowed


def test_what_nobody_has_said_yet_does_not_have_to_settle() -> None:
    world = Gate()
    minds = entry(line=LinePolicy(allow_metered=False))
    world.gate.update(Line(connected=True, metered=None))
    assert world.gate.held(minds).reason is Reason.METERED
    world.gate.update(CONNECTED)
    assert world.gate.held(minds).allowed


def test_the_size_decides_where_a_metered_line_is_capped() -> None:
    world = Gate(LinePolicy(metered_bytes_max=100))
    gate = world.gate
    gate.update(METERED)
    assert gate.held(entry("unknown")).allowed
    assert gate.held(entry("small", bytes_total=100)).allowed
    assert gate.held(entry("big", bytes_total=101)).reason is Reason.METERED
    assert gate.held(entry("expected", expected_length=101)).reason is Reason.METERED
    assert gate.wants_size(entry("unknown"))
    gate.learn(entry("unknown"), math.inf)
    assert not gate.wants_size(entry("unknown"))
    assert gate.held(entry("unknown")).reason is Reason.METERED
    uncapped = entry("own", line=LinePolicy(metered_bytes_max=0))
    assert not gate.wants_size(uncapped)
    gate.learn(uncapped, math.inf)
    assert gate.held(uncapped).allowed


def test_another_policy_of_the_engine_counts_for_who_asks_again() -> None:
    gate = Gate().gate
    gate.update(METERED)
    before = gate.kind_of(entry())
    gate.set_policy(LinePolicy(allow_metered=False))
    assert gate.kind_of(entry()) != before
    assert gate.held(entry()).reason is Reason.METERED
    gate.set_policy(ANY_LINE)
    assert gate.kind_of(entry()) == before


def test_hours_are_looked_at_when_they_change_and_now_and_then_for_a_clock_that_was_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("engine.model.line_policy.datetime", Utc)
    world = Gate()
    night = entry(line=LinePolicy(hours="22:00-06:00"))
    world.wall = NIGHT - 10_000
    world.gate.kind_of(night)
    world.gate.look()
    assert world.gate.next_look_s() == CLOCK_LOOK_S
    assert world.gate.held(night).reason is Reason.HOURS
    world.wall = NIGHT - 5
    assert world.gate.next_look_s() == 5.0
    world.after(5.0)
    assert world.after(2.0).held(night).allowed
    world.wall = NIGHT - 3600  # somebody set it back
    assert world.after(0.0).held(night).reason is Reason.HOURS


@pytest.mark.parametrize(
    ("host", "here"),
    [
        ("localhost", True), ("media.localhost", True), ("127.0.0.1", True), ("127.9.8.7", True), ("[::1]", True),
        ("localhost.example", False), ("127.example", False), ("10.0.0.1", False), ("[::2]", False), ("", False),
    ],
)  # fmt: skip
def test_this_machine_needs_no_line(host: str, here: bool) -> None:
    assert is_here(host) is here
    world = Gate()
    world.gate.update(GONE)
    assert world.gate.held(entry(url=f"http://{host}:80/x")).allowed is here


def test_one_mirror_elsewhere_needs_a_line() -> None:
    both = DownloadEntry(id="a", sources=("http://localhost/x", "http://cdn.example/x"))
    assert Gate().gate.needs_line(both)


def test_what_leaves_this_machine_needs_a_line_from_then_on() -> None:
    """Its kind is another one then: it waits, and goes on, with all that need a line."""
    gate = Gate().gate
    local = entry(url="http://localhost/x", line=LinePolicy(allow_metered=False))
    leave = gate.leave_of(local)
    assert leave is not None
    for line, kind, reason in ((METERED, MeteredLine, Reason.METERED), (GONE, NoRoute, Reason.NETWORK)):
        gate.update(line)
        with pytest.raises(kind, match="waits for"):
            leave()
        assert gate.parked == {"a": None}
        assert gate.held(local).reason is reason
    assert gate.leave_of(local) is None, "it is judged by the line before it begins again"
    other = entry(url="http://localhost/y", line=local.line)
    assert gate.held(other).allowed, "another URL of the same id need not lead there"


def test_what_may_leave_goes_through_the_interface_of_its_policy() -> None:
    gate = Gate().gate
    gate.update(Line(connected=True, interfaces=(Interface(name="wg0", up=True, routed=True),)))
    local = entry(url="http://localhost/x", line=LinePolicy(interfaces=("wg0",)))
    assert gate.held(local).interface == ""
    leave = gate.leave_of(local)
    assert leave is not None
    assert leave() == "wg0"
    assert gate.leave_of(entry()) is None


def test_a_gate_that_closes_by_the_clock_between_two_turns_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The queue is told a moment later: until then nobody is taken, put back and taken again without end."""
    stage = Stage(Config(entries_at_once=2))

    async def script(stage: Stage) -> None:
        stage.runs.gate.update(CONNECTED)
        for number in range(4):
            stage.start(f"e{number}")
        await trio.testing.wait_all_tasks_blocked()
        assert len(stage.begun) == 2
        stage.runs.gate.update(GONE)  # and the queue does not know
        await trio.sleep(10.0)
        assert len(stage.begun) == 2
        stage.runs.gate.update(CONNECTED)
        stage.runs.hold_back()
        await trio.sleep(5.0)
        assert sorted(stage.begun) == ["e0", "e1", "e2", "e3"]

    stage.act(monkeypatch, script)
