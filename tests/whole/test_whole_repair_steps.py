"""The process ends before each durable step of a repair in turn: the finished file is there at every moment, what the
store claims is true, and the next repair leaves it good and nothing beside it."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec

from engine.model.records import PartPhase
from engine.model.states import State
from tests.support.engine_process import CRASHED, EngineProcesses, Job, report_of
from tests.support.library import CHUNK, check_claim, claims, content, files_under, parts_under, payload_of
from tests.support.origin import serve
from tests.support.upkeep import spoil

PAYLOAD = payload_of(9 * CHUNK + 9, seed=73)
STEPS_MAX = 150
FAST = {"commit_interval_s": 0.01, "first_span_bytes": CHUNK, "chunk_bytes": CHUNK, "parallel_bytes_min": CHUNK}


def check_after_crash(job: Job, target: Path, spoiled: bytes) -> None:
    """The file is the old or the new one; a claim on a new generation is true; unfinished files are on record."""
    assert content(target) in {spoiled, PAYLOAD}
    for claim in claims(job.root):
        assert parts_under(target.parent) <= {claim.part.part_name, *claim.part.superseded}
        if claim.part.phase is not PartPhase.PUBLISHED:
            check_claim(job.root, claim, PAYLOAD)
        elif claim.part.generation > 1 and claim.entry.state is State.COMPLETED:
            assert content(target) == PAYLOAD


async def test_a_crash_before_every_step_of_a_repair(processes: EngineProcesses, tmp_path: Path) -> None:
    kept = 0
    async with serve(PAYLOAD) as origin:
        for step in range(1, STEPS_MAX):
            here = tmp_path / str(step)
            target = here / "library" / "files" / "film.bin"
            here.mkdir()
            plain = Job(
                root=str(here / "library"),
                url=origin.url(),
                report=str(here / "report"),
                config=FAST | {"orphan_grace_s": 0.0},
            )
            assert await processes.run(plain) == 0
            assert report_of(plain).error == ""
            spoil(target, [2 * CHUNK, 7 * CHUNK])
            spoiled = content(target)
            origin.forget()
            job = msgspec.structs.replace(plain, repair=True)
            status = await processes.run(msgspec.structs.replace(job, crash_at=step))
            assert status in {0, CRASHED}
            check_after_crash(job, target, spoiled)
            if status == CRASHED:
                if await processes.run(msgspec.structs.replace(job, crash_at=1 + step % 23)) == CRASHED:
                    check_after_crash(job, target, spoiled)
                assert await processes.run(job) == 0
            assert report_of(job).error == ""
            assert content(target) == PAYLOAD
            assert files_under(here / "library" / "files") == {"film.bin"}
            kept += origin.sent <= 4 * CHUNK
            shutil.rmtree(here)
            if status == 0:
                break
        assert status == 0, "the run never came to its end"
        assert step > 15
    assert kept == step, "a repair that crashed twice fetched more than the bad chunks, twice"
