"""The line changes at the very moment at which an attempt's pause is being recorded: no entry is left behind."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from engine import DownloadEntry, Reason, State
from engine.control import line_gate
from engine.control.moves import Moves
from engine.model.states import Event
from tests.support.library import content, payload_of, small
from tests.support.lines import FREE, GONE, METERED, until
from tests.support.origin import serve
from tests.whole.test_whole_line_policy import opened, request

PAYLOAD = payload_of(100_000)
AT_ONCE = small(network_settle_s=0.0)


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origins of these tests count as other machines, although they are not."""
    monkeypatch.setattr(line_gate, "is_here", lambda _: False)


def at_the_pause(monkeypatch: pytest.MonkeyPatch, change: Callable[[], None]) -> None:
    """Change something once, when the first pause is about to be recorded, and let everybody see it before it is."""
    move = Moves.move
    changes = [change]

    async def slow(self: Moves, entry: DownloadEntry, event: Event, *args: Any, **kwargs: Any) -> DownloadEntry:
        if event is Event.PAUSE and changes:
            changes.pop()()
            await trio.testing.wait_all_tasks_blocked(0.05)
        return await move(self, entry, event, *args, **kwargs)

    monkeypatch.setattr(Moves, "move", slow)


async def test_a_line_that_comes_back_while_the_pause_is_recorded_is_not_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED, config=AT_ONCE) as (engine, monitor, _):
        at_the_pause(monkeypatch, lambda: monitor.set(FREE))
        download = await engine.offline(request(origin, metered_bytes_max=1000))
        with trio.fail_after(10):
            assert content((await download.wait()).path) == PAYLOAD
        assert (await engine.get("film")).attempt_count == 2, "its pause was recorded, and lifted once"


async def test_the_reason_on_record_counts_when_the_line_changes_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Paused as metered, while the line watch was about to pause it for want of a line."""
    async with serve(PAYLOAD) as origin, opened(tmp_path, origin, METERED, config=AT_ONCE) as (engine, monitor, events):
        at_the_pause(monkeypatch, lambda: monitor.set(GONE))
        download = await engine.offline(request(origin, metered_bytes_max=1000))
        with trio.fail_after(10):
            await until(events, State.PAUSED, Reason.METERED)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(origin.asked) == 1, "nothing is asked on a line that it may not use"
            monitor.set(FREE)
            assert content((await download.wait()).path) == PAYLOAD
