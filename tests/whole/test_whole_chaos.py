"""Seeded chaos: a server that fails in every way at random, an engine stopped and started; then the faults stop.

While it lasts nothing false is ever claimed or published; afterwards every download gets to its end by itself.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import trio

from engine import DownloadFailed, DownloadRequest, Durability, Engine, EngineClosed, open_engine
from tests.support.library import BIG_CHUNK, check_claim, claims, content, parts_under, payload_of, small
from tests.support.origin import Asked, End, Reply, serve

PAYLOADS = [payload_of(size, seed=80 + size) for size in (0, 700, 3 * BIG_CHUNK + 1, 25 * BIG_CHUNK + 99)]
IMPATIENT = small(idle_timeout_s=0.05, first_byte_timeout_s=0.3, buffer_count=6)
STARTS = 4


def truth_of(target: str) -> bytes:
    return PAYLOADS[int(target.rstrip("/").split("-")[-1])]


def chaotic(rng: random.Random) -> Callable[[Asked], Reply]:
    """Some of the answers are the truth; most fail, lie or lack something."""

    def script(asked: Asked) -> Reply:
        truth = truth_of(asked.target)
        cut = rng.randrange(1, 3 * BIG_CHUNK)
        faults = [
            Reply(body=truth, send=cut, end=End.CLOSE),
            Reply(body=truth, send=cut, end=End.RESET),
            Reply(body=truth, send=cut, end=End.HANG),
            Reply(body=truth, ranges=False),
            Reply(body=truth, ranges=False, framing="chunked"),
            Reply(body=truth, framing="chunked", send=cut, end=End.CLOSE),
            Reply(body=truth, etag="", last_modified=""),
            Reply(body=truth, etag='W/"weak"'),
            Reply(body=truth, surplus=b"surplus"),
            Reply(body=truth, content_range="bytes 5-9/10"),
            Reply(body=truth, fields=(("Content-Encoding", "gzip"),)) if rng.random() < 0.1 else Reply(status=502),
            Reply(status=503, fields=(("Retry-After", "0"),)),
            Reply(status=429),
            Reply(status=500, end=End.CLOSE),
            Reply(body=truth, rate=3e6),
        ]
        return rng.choice(faults) if rng.random() < 0.7 else Reply(body=truth, etag=f'"{asked.target}"')

    return script


@pytest.mark.parametrize("seed", range(16))
async def test_chaos_and_then_peace(library: Path, seed: int) -> None:
    rng = random.Random(seed)
    async with serve(b"", chaotic(rng)) as origin:
        requests = [
            DownloadRequest(
                url=f"{origin.base}/file-{number}",
                id=str(number),
                durability=rng.choice(list(Durability)),
                connections=rng.randint(1, 5),
            )
            for number in range(len(PAYLOADS))
        ]
        for _ in range(STARTS):
            with trio.move_on_after(rng.uniform(0.02, 0.5)):
                async with open_engine(library, config=IMPATIENT, seed=seed) as engine, trio.open_nursery() as nursery:
                    for request in requests:
                        nursery.start_soon(_ask, engine, request)
            for claim in claims(library) if (library / "store").exists() else ():
                check_claim(library, claim, PAYLOADS[int(claim.entry.id)])
        origin.script = lambda asked: Reply(body=truth_of(asked.target), etag=f'"{asked.target}"')
        with trio.fail_after(30):
            async with open_engine(library, config=IMPATIENT, seed=seed) as engine:
                finished = [await (await engine.offline(request)).wait() for request in requests]
    for offline, payload in zip(finished, PAYLOADS, strict=True):
        assert content(offline.path) == payload
    assert parts_under(library) == set()


async def _ask(engine: Engine, request: DownloadRequest) -> None:
    """Ask, and wait for whatever comes of it."""
    with suppress(DownloadFailed, EngineClosed):
        await (await engine.offline(request)).wait()
