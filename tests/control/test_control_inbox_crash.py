"""Commands of other processes and an engine that is killed at any durable step: each is done exactly once."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.model.commands import Command, CommandResult, Outcome, Verb
from engine.model.states import Event, Reason, State
from engine.store import inbox as rows
from engine.store.state_store import StateStore
from tests.store.helpers import child, entry, open_store

CRASHED = 99

# Carries out what waits, and ends at once before the given durable step. Whether the engine does it by itself at its
# start, or this helper: the second finds nothing left.
CATCH_UP = """
import trio
from engine import open_engine
from engine.control.inbox import Inbox
from engine.control.inbox_verbs import verbs_for_all_of, verbs_of
from engine.store.environment import Environment
from engine.store.inbox import EngineInbox
from tests.support.library import small
from tests.support.steps import Steps, step_transactions
steps = Steps(int(sys.argv[2]), lambda: os._exit(99))
step_transactions(steps, Environment)
begin = EngineInbox.begin
def first_begin(self, numbers):
    print(len(steps.taken), flush=True)
    return begin(self, numbers)
EngineInbox.begin = first_begin
async def main():
    async with open_engine(root, config=small(records_only=True), resume=False) as engine:
        async with trio.open_nursery() as nursery:
            inbox = Inbox(
                engine._services, root, verbs_of(engine, engine._manager), verbs_for_all_of(engine._manager)
            )
            await nursery.start(inbox.run)
            nursery.cancel_scope.cancel()
trio.run(main)
print(len(steps.taken))
"""


def crashing(root: str, step: int) -> tuple[int, list[int]]:
    """The exit status, and the steps taken when the command was begun and (without a crash) in all."""
    with child(CATCH_UP.replace("sys.argv[2]", f"'{step}'"), root) as process:
        out, err = process.communicate(timeout=60)
        assert process.returncode in {0, CRASHED}, err
        return process.returncode, [int(line) for line in out.split()]


def crashes_enough(ends: list[int], steps: int) -> bool:
    """Whether all but the last two steps were reached: who of two comes first decides how many there are."""
    return ends.count(CRASHED) >= steps - 2


def left_behind(root: str, verb: Verb) -> Command:
    """A store with an entry and a command for it."""
    store = open_store(root)
    store.add(entry("a"))
    if verb is Verb.RETRY:
        store.transition("a", Event.FAIL, epoch=1, now=2.0)
    given = Command(verb=verb, token="t", id="a")
    [left] = store._environment.write(lambda txn: rows.append(txn, [given], 10))
    store.close()
    return left


@pytest.mark.parametrize("verb", [Verb.RETRY, Verb.REMOVE])
def test_killed_at_any_step_a_command_is_done_exactly_once(tmp_path: Path, verb: Verb) -> None:
    """A retry counts itself: each begins an epoch. What was removed stays so, and its successor is left alone."""
    left_behind(str(tmp_path / "whole"), verb)
    status, [begun, in_all] = crashing(str(tmp_path / "whole"), 0)
    assert status == 0
    assert in_all > begun + 2
    ends = []
    for step in range(begun, in_all + 1):
        root = str(tmp_path / f"{step}")
        left = left_behind(root, verb)
        ends.append(crashing(root, step)[0])
        removed = False
        if verb is Verb.REMOVE:
            store = open_store(root)
            removed = store.get("a") is None
            if removed:
                store.add(entry("a", title="successor"))
            store.close()
        assert crashing(root, 0)[0] == 0
        check_done_once(root, left, "successor" if removed else "")
    assert crashes_enough(ends, in_all - begun + 1)


def result_of(store: StateStore, left: Command) -> CommandResult | None:
    return store._environment.read(lambda txn: rows.result_of(txn, left.number))


def check_done_once(root: str, left: Command, successor: str) -> None:
    store = open_store(root)
    found = store.get("a")
    result = result_of(store, left)
    assert store.inbox.waiting(0, 10) == []
    store.close()
    assert result is not None
    assert (result.outcome, result.token) == (Outcome.DONE, left.token)
    if left.verb is Verb.REMOVE:
        assert (found.title if found else "") == successor
    else:
        assert found is not None
        assert (found.state, found.epoch) == (State.PENDING, 2)


def test_killed_at_any_step_a_command_for_all_is_done_to_the_end(tmp_path: Path) -> None:
    """And to none that was added after it was begun."""

    def leave(root: str) -> Command:
        store = open_store(root)
        store.add_many(entry(name) for name in "abc")
        store.transition("b", Event.PAUSE, epoch=1, now=2.0, reason=Reason.NETWORK)
        given = Command(verb=Verb.PAUSE, token="t", every=True)
        [left] = store._environment.write(lambda txn: rows.append(txn, [given], 10))
        store.close()
        return left

    leave(str(tmp_path / "whole"))
    _, [begun, in_all] = crashing(str(tmp_path / "whole"), 0)
    steps = range(begun, in_all + 1, 2)  # every other one: each costs two processes
    ends = []
    for step in steps:
        root = str(tmp_path / f"{step}")
        left = leave(root)
        ends.append(crashing(root, step)[0])
        store = open_store(root)
        store.add(entry("later"))
        begun_before = all(row.command is not None and row.command.mark for row in store.inbox.waiting(0, 10))
        store.close()
        assert crashing(root, 0)[0] == 0
        store = open_store(root)
        others = {one.id for one in store.list() if (one.state, one.state_reason) != (State.PAUSED, Reason.USER)}
        result = result_of(store, left)
        store.close()
        assert others == ({"later"} if begun_before else set())
        assert result is not None
        assert (result.outcome, result.count) == (Outcome.DONE, 3 if begun_before else 4)
    assert crashes_enough(ends, len(steps))
