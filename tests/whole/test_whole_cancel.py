"""The host cancels at any moment: nothing half done, nothing raised but the cancellation (fault catalogue C18)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Durability, State, open_engine
from engine.store.environment import Environment
from tests.support.library import CHUNK, check_claim, claims, files_under, payload_of, small
from tests.support.origin import Reply, Script, plain, serve
from tests.support.run import assert_complete, run
from tests.support.steps import Steps, step_transactions, stepping_files

PAYLOAD = payload_of(6 * CHUNK + 9, seed=61)
FAST = small(commit_interval_s=0.01, first_span_bytes=CHUNK, chunk_bytes=CHUNK, parallel_bytes_min=CHUNK)
STEPS_MAX = 150


def _cancelling(scope: trio.CancelScope) -> Callable[[], None]:
    """A call that cancels ``scope``, for any thread."""
    token = trio.lowlevel.current_trio_token()

    def cancel() -> None:
        if threading.current_thread() is threading.main_thread():
            scope.cancel()
        else:
            trio.from_thread.run_sync(scope.cancel, trio_token=token)

    return cancel


@pytest.mark.parametrize(
    ("durability", "script"),
    [
        (Durability.STRICT, plain),
        (Durability.RELAXED, plain),
        (Durability.STRICT, lambda _: Reply(framing="chunked", ranges=False)),
    ],
    ids=["strict", "relaxed", "chunked"],
)
async def test_cancelled_before_every_step(tmp_path: Path, durability: Durability, script: Script) -> None:
    reached_the_end = cancelled = False
    async with serve(PAYLOAD, script) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=durability, connections=2)
        for step in range(1, STEPS_MAX):
            library = tmp_path / str(step)
            scope = trio.CancelScope()
            steps = Steps(step, _cancelling(scope))
            with pytest.MonkeyPatch.context() as patch, scope, trio.fail_after(20):
                step_transactions(steps, Environment, patch.setattr)
                await run(library, request, config=FAST, files=stepping_files(steps))
            cancelled |= scope.cancelled_caught
            for claim in claims(library) if (library / "store").exists() else ():
                check_claim(library, claim, PAYLOAD)
                assert claim.entry.state in {State.PENDING, State.COMPLETED}
            outcome = await run(library, request, config=FAST)
            assert_complete(outcome, PAYLOAD)
            assert files_under(library / "files") == {"film.bin"}
            if not steps.struck:
                reached_the_end = True
                break
    assert reached_the_end
    assert cancelled
    assert step > 15


async def test_cancelled_at_any_time(tmp_path: Path) -> None:
    """Between the steps too: after so many milliseconds, over a slow line."""
    payload = payload_of(40 * CHUNK + 1, seed=62)
    async with serve(payload) as origin:
        origin.rate = 2e6
        for milliseconds in range(0, 160, 8):
            library = tmp_path / str(milliseconds)
            request = DownloadRequest(url=origin.url(), id="film")
            held = 0
            with trio.move_on_after(milliseconds / 1000):
                async with open_engine(library, config=FAST, seed=1) as engine:
                    await (await engine.offline(request)).wait()
            for claim in claims(library) if (library / "store").exists() else ():
                check_claim(library, claim, payload)
                held = claim.held_bytes
            outcome = await run(library, request, config=FAST)
            assert_complete(outcome, payload)
            assert outcome.stats.bytes_resumed == (0 if outcome.stats.attempts == 0 else held)
