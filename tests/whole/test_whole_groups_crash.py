"""The process ends before each durable step of removing an album, and of emptying an account (DESIGN law 6)."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, open_engine
from tests.store.helpers import REPOSITORY
from tests.support.grouping import album, controllers
from tests.support.library import CHUNK, SMALL, files_under, payload_of
from tests.support.origin import Origin, serve

PAYLOAD = payload_of(CHUNK, seed=33)
CRASHED = 37
STEPS_MAX = 60

CHILD = """
import os, sys, trio
from engine import open_engine
from engine.store.environment import Environment
from tests.support.grouping import controllers
from tests.support.library import SMALL
from tests.support.steps import Steps, step_transactions, stepping_files

root, what, at = sys.argv[1], sys.argv[2], int(sys.argv[3])
opened = False
steps = Steps(at, lambda: opened and os._exit({CRASHED}))
step_transactions(steps, Environment)

async def main():
    global opened
    async with open_engine(root, config=SMALL, files=stepping_files(steps), resume=False) as engine:
        steps.taken.clear()
        opened = True
        groups, scopes = controllers(engine)
        await (groups.remove("g", scope="alice") if what == "remove" else scopes.reset("alice"))
        opened = False

trio.run(main)
""".replace("{CRASHED}", str(CRASHED))


async def _prepared(library: Path, origin: Origin) -> dict[str, str]:
    """Alice has an album of a and b, b is in another one too, and c by itself; bob has z. Returns the files' names."""
    async with open_engine(library, config=SMALL) as engine:
        groups, _ = controllers(engine)
        for scope, name in (("alice", "c"), ("bob", "z")):
            await engine.offline(DownloadRequest(url=f"{origin.base}/{name}", id=name, scope=scope))
        await groups.add(album(origin.base, "abc", scope="alice"))
        await groups.add(album(origin.base, "b", "h", scope="alice"))
        return {name: os.path.basename((await engine.wait(name)).path) for name in "abcz"}


LEFT = {"remove": {"b", "c", "z"}, "reset": {"z"}}
STRIDE = {"remove": 2, "reset": 5}  # each round starts a process, and many steps are alike


@pytest.mark.parametrize("what", LEFT)
async def test_a_crash_at_any_step_leaves_all_of_it_or_nothing(tmp_path: Path, what: str) -> None:
    begun = finished = 0
    async with serve(PAYLOAD) as origin:
        for at in range(1, STEPS_MAX, STRIDE[what]):
            library = tmp_path / str(at)
            names = await _prepared(library, origin)
            arguments = [sys.executable, "-c", CHILD, str(library), what, str(at)]
            environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
            with trio.fail_after(60):
                done = await trio.run_process(arguments, capture_stderr=True, check=False, env=environment)
            assert done.returncode in {0, CRASHED}, done.stderr.decode()
            async with open_engine(library, config=SMALL, resume=False) as engine:
                groups, scopes = controllers(engine)
                await scopes.finish_resets()
                await groups.finish()
                there = {entry.id for entry in await engine.list()}
                assert there in (set("abcz"), LEFT[what]), f"half of it, after {done.returncode} at step {at}"
                assert files_under(library / "files") == {names[name] for name in there}
                begun += there == LEFT[what] and done.returncode == CRASHED
                await (groups.remove("g", scope="alice") if what == "remove" else scopes.reset("alice"))
                assert {entry.id for entry in await engine.list()} == LEFT[what]
                assert files_under(library / "files") == {names[name] for name in LEFT[what]}
            if done.returncode == 0:
                finished = at
                break
    assert finished > 5
    assert begun > 1
