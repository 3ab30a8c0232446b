"""kill -9 at random moments, again and again (fault catalogue C1-C6, C17; DESIGN laws 1 and 6)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
import trio

from engine import Durability
from tests.support.engine_process import EngineProcesses, Job, report_of
from tests.support.library import (
    BIG_CHUNK,
    SMALL,
    Claim,
    check_claim,
    claims,
    content,
    files_under,
    hash_of,
    payload_of,
)
from tests.support.origin import PIECE_BYTES, Origin, serve

KILLS = 24
CONNECTIONS = 4
RATE = 0.7e6  # bytes a second and connection: all kills together see about half of the file
PAYLOAD = payload_of(20 * 1024 * 1024 + 4321, seed=11)

# What one kill may cost: the commit window, and of each connection the chunk being filled and the piece on its way.
LOSS_BYTES_MAX = SMALL.commit_window_bytes + CONNECTIONS * (BIG_CHUNK + 2 * PIECE_BYTES)


def _claim_of(library: Path) -> Claim | None:
    """The claim of the entry, or None before it has a part."""
    if not (library / "store").exists():
        return None
    found = claims(library)
    return found[0] if found else None


def _held(claim: Claim | None) -> set[int]:
    return set() if claim is None else {index for first, count in claim.runs for index in range(first, first + count)}


def _assert_nothing_held_was_asked_for(origin: Origin, before: Claim | None) -> None:
    for start, end in before.ranges if before else ():
        for asked in origin.asked:
            assert asked.start is not None
            assert asked.end is not None
            assert not (asked.start < end and start < asked.end), f"{start}-{end} was held and is asked for again"


@pytest.mark.parametrize("durability", list(Durability))
async def test_killed_again_and_again(library: Path, processes: EngineProcesses, durability: Durability) -> None:
    rng = random.Random(f"kill loop, {durability.value}")
    report_path = str(library.parent / "report")
    held: set[int] = set()
    kills = with_loss = 0
    async with serve(PAYLOAD) as origin:
        job = Job(
            root=str(library), url=origin.url(), report=report_path, durability=durability, connections=CONNECTIONS
        )
        origin.rate = RATE
        while kills < KILLS:
            before = _claim_of(library)
            origin.forget()
            pid = await processes.start(job)
            await trio.sleep(rng.uniform(0.02, 0.35))
            assert await processes.kill(pid) == -9, "the engine was done, or failed, before it was killed"
            kills += 1
            after = _claim_of(library)
            if after is not None:
                check_claim(library, after, PAYLOAD)
            _assert_nothing_held_was_asked_for(origin, before)
            assert held <= _held(after), "a chunk that was held is held no more"
            held = _held(after)
            gained = (after.held_bytes if after else 0) - (before.held_bytes if before else 0)
            assert origin.sent - gained <= LOSS_BYTES_MAX
            with_loss += origin.sent > gained
        assert with_loss, "no kill met a chunk on its way: the loop proves nothing"
        before = _claim_of(library)
        assert before is not None
        assert 0 < len(held) < before.grid.count
        origin.rate = None
        origin.forget()
        assert await processes.run(job) == 0
    report = report_of(job)
    _assert_nothing_held_was_asked_for(origin, before)
    assert report.bytes_resumed == before.held_bytes
    assert report.bytes_fetched == len(PAYLOAD) - before.held_bytes
    assert report.blake3 == hash_of(PAYLOAD)
    assert content(report.path) == PAYLOAD
    assert files_under(library / "files") == {"film.bin"}
    assert any("continues where it was" in what for what in report.recovered)
