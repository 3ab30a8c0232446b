"""Hosts in trouble with a queue behind them: nobody starves for what runs, and a long queue does not walk over them."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import trio

from engine import Download, DownloadRequest, Engine, State, open_engine
from tests.support.library import BIG_CHUNK, CHUNK, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, Script, serve

PAYLOAD = payload_of(CHUNK, seed=91)
BIG = payload_of(160 * BIG_CHUNK, seed=92)
# It takes minutes, over one exchange: its entry asks the host nothing more.
STREAM = Reply(body=BIG, ranges=False, rate=50e3)
PATIENCE_S = 120.0


def beside_a_stream(trouble: Script) -> Script:
    """``/big`` streams; everything else meets the trouble."""
    return lambda asked: STREAM if asked.target == "/big" else trouble(asked)


async def stream_and(engine: Engine, origin: Origin, count: int) -> list[Download]:
    """Others of the host, once the stream flows."""
    await engine.offline(DownloadRequest(url=origin.url("big"), id="big"))
    await origin.until_sent(BIG_CHUNK)
    requests = [DownloadRequest(url=origin.url(f"f{number}"), id=f"e{number}") for number in range(count)]
    return await engine.offline_many(requests)


@pytest.mark.parametrize("refused", [1, 10])
async def test_nobody_starves_beside_a_stream_when_its_host_was_in_trouble(library: Path, refused: int) -> None:
    """One refusal halves what runs at once, ten in a row open the breaker; the one that runs asks nothing that could
    end either."""

    def trouble(asked: Asked) -> Reply:
        return Reply(status=503) if asked.number <= 1 + refused else Reply()

    config = small(entries_at_once=5, growth_hold_s=0.2)
    async with serve(PAYLOAD, beside_a_stream(trouble)) as origin, open_engine(library, config=config) as engine:
        with trio.fail_after(PATIENCE_S):
            for download in await stream_and(engine, origin, 12):
                await download.wait()
        assert (await engine.get("big")).state is State.IN_PROGRESS


TROUBLES = {
    "429": Reply(status=429),
    "429 and no time": Reply(status=429, fields=(("Retry-After", "0"),)),
    "503 and no time": Reply(status=503, fields=(("Retry-After", "0"),)),
    "503": Reply(status=503),
    "408": Reply(status=408),
    "425": Reply(status=425),
    "a lost body": Reply(send=100, end=End.RESET),
}


@pytest.mark.parametrize("trouble", TROUBLES)
async def test_a_long_queue_waits_for_its_host_and_loses_nobody(library: Path, trouble: str) -> None:
    """So many requests in a row open the breaker (twice as many at most where entries are counted, and some come
    again), those under way come on top; then there is one behind each rest, and the rests double. Who is held back by a
    rest burns no try."""
    config = small(
        entries_at_once=4,
        breaker_open_s=0.1,
        breaker_open_max_s=60.0,
        growth_hold_s=0.02,
        backoff_base_s=2.0,
        backoff_max_s=2.0,
    )
    well, storm = False, 60
    async with (
        serve(PAYLOAD, lambda _: Reply() if well else TROUBLES[trouble]) as origin,
        open_engine(library, config=config, seed=1) as engine,
    ):
        began = trio.current_time()
        requests = [DownloadRequest(url=origin.url(f"f{number}"), id=f"e{number}") for number in range(150)]
        with trio.fail_after(PATIENCE_S):
            downloads = await engine.offline_many(requests)
            await origin.until_asked(config.breaker_failures + 1)
            with trio.move_on_after(2.0):
                await origin.until_asked(storm)
            rests = math.log2((trio.current_time() - began) / config.breaker_open_s + 1)
            well = True
            assert len(origin.asked) <= 2 * config.breaker_failures + config.entries_at_once + rests + 1
            for download in downloads:
                await download.wait()
