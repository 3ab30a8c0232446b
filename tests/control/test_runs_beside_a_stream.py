"""One entry runs for hours and asks its host nothing more: the others of that host do not wait for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import trio

from engine.config import Config
from engine.control.runs import Runs
from engine.errors import ConnectRefused, EngineError
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.net.hosts import Hosts
from tests.support.runs import Stage

HOURS_S = 6 * 3600.0
CONFIG = Config(entries_at_once=5, reconcile_interval_s=1e9)


def beside(entry: DownloadEntry) -> tuple[float, EngineError | None]:
    """The first one takes hours; each other one a second, and asks nobody."""
    return (HOURS_S if entry.id == "big" else 1.0), None


def hosts_of(runs: Runs) -> Hosts:
    return runs._services.client.hosts


def refuse_one(hosts: Hosts) -> None:
    hosts.answered("h", 503, None, lambda _: 2)


def fail(hosts: Hosts) -> None:
    for _ in range(CONFIG.breaker_failures):
        hosts.failed("h", ConnectRefused("refused"), lambda _: 1)


@pytest.mark.parametrize("trouble", [refuse_one, fail])
def test_others_of_its_host_get_their_turns(monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Hosts], None]) -> None:
    async def script(stage: Stage) -> None:
        stage.start("big")
        await trio.sleep(1)
        trouble(hosts_of(stage.runs))
        for number in range(12):
            stage.start(f"e{number}")
        await trio.sleep(60)
        assert [entry.id for entry in stage.running] == ["big"]
        states = [entry.state for entry in stage.records.entries.values()]
        assert states.count(State.COMPLETED) == 12

    Stage(CONFIG, beside).act(monkeypatch, script)


def test_those_that_try_and_ask_another_one_do_not_keep_the_next_from_trying(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have a mirror, and take hours there: one begins at once, the next ones a rest later each."""

    def play(entry: DownloadEntry) -> tuple[float, Any]:
        return HOURS_S, None

    async def script(stage: Stage) -> None:
        fail(hosts_of(stage.runs))
        for number in range(4):
            stage.start(f"e{number}")
        rest_s, seen = CONFIG.breaker_open_s, []
        await trio.sleep(rest_s / 2)
        for _ in range(5):
            seen.append(len(stage.running))
            await trio.sleep(rest_s)
        assert seen == [0, 1, 2, 3, 4]

    Stage(CONFIG, play).act(monkeypatch, script)
