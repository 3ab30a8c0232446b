"""The process ends before each durable step in turn, then again inside the next start (fault catalogue C2-C13, C16).

A step is a file system call that changes something, or the beginning or end of a store transaction.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from engine import open_engine
from engine.model.records import PartPhase
from engine.model.states import State
from tests.support.engine_process import CRASHED, EngineProcesses, Job, report_of
from tests.support.library import CHUNK, check_claim, claims, content, files_under, hash_of, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, plain, serve

OLD = payload_of(5 * CHUNK + 9, seed=1)
NEW = payload_of(4 * CHUNK + 5, seed=2)
STEPS_MAX = 150
STORE_FILES = {"owner.lock", "store/closed", "store/data.mdb", "store/lock.mdb"}


@dataclass(frozen=True, slots=True)
class Scene:
    """What is there before the run that crashes, and what must be there in the end."""

    job: Job
    target: Path
    before: bytes | None
    deleted: bool = False  # the finished file, by its user: then what the store claims of it is not the engine's fault


Prepare = Callable[[EngineProcesses, Origin, Path], "object"]


def _job(origin: Origin, here: Path, **options: object) -> Job:
    fast = {"commit_interval_s": 0.01, "first_span_bytes": CHUNK, "chunk_bytes": CHUNK, "parallel_bytes_min": CHUNK}
    return Job(
        root=str(here / "library"),
        url=origin.url(),
        report=str(here / "report"),
        config=fast,
        connections=2,
        **options,  # type: ignore[arg-type]
    )


def _cut_late(asked: Asked) -> Reply:
    """The beginning, and then an error that ends the entry with a part that is half done."""
    return plain(asked) if asked.number == 1 else Reply(status=404)


async def _fresh(processes: EngineProcesses, origin: Origin, here: Path, **options: object) -> Scene:
    return Scene(_job(origin, here, **options), here / "library" / "files" / "film.bin", None)


async def _relaxed(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    return await _fresh(processes, origin, here, durability="relaxed")


async def _half_done(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    job = _job(origin, here)
    origin.forget()
    origin.script = _cut_late
    assert await processes.run(job) == 0
    assert report_of(job).error == "not_found"
    assert 0 < claims(job.root)[0].held_bytes < len(NEW)
    return Scene(job, here / "library" / "files" / "film.bin", None)


async def _other_generation(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    origin.serve(OLD)
    return await _half_done(processes, origin, here)


async def _replacing(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    target = here / "mine.bin"
    target.write_bytes(b"the old file")
    return Scene(_job(origin, here, destination=str(target), overwrite=True), target, b"the old file")


async def _finished_file_gone(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    job = _job(origin, here)
    assert await processes.run(job) == 0
    (here / "library" / "files" / "film.bin").unlink()
    return Scene(job, here / "library" / "files" / "film.bin", None, deleted=True)


async def _finished_file_harmed(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    job = _job(origin, here)
    assert await processes.run(job) == 0
    target = here / "library" / "files" / "film.bin"
    os.truncate(target, len(NEW) - 1)
    job = msgspec.structs.replace(job, overwrite=True)
    return Scene(job, target, NEW[:-1], deleted=True)


async def _unknown_length(processes: EngineProcesses, origin: Origin, here: Path) -> Scene:
    origin.script = _chunked
    return Scene(_job(origin, here), here / "library" / "files" / "film.bin", None)


def _chunked(asked: Asked) -> Reply:
    return Reply(framing="chunked", ranges=False, end=End.CLOSE)


def _check_after_crash(scene: Scene, payload: bytes) -> None:
    """Whatever was reached: the target is old or new, never between; what the store claims is true."""
    assert (content(scene.target) if scene.target.exists() else None) in {scene.before, payload}
    if (Path(scene.job.root) / "store").exists():
        for claim in claims(scene.job.root):
            if scene.deleted and claim.part.phase is PartPhase.PUBLISHED and claim.part.generation == 1:
                continue
            check_claim(scene.job.root, claim, OLD if claim.part.length == len(OLD) else payload)
            if claim.entry.state is State.COMPLETED:
                assert content(scene.target) == payload


def _check_in_the_end(scene: Scene, payload: bytes) -> None:
    report = report_of(scene.job)
    assert report.error == ""
    assert report.blake3 == hash_of(payload)
    assert Path(report.path) == scene.target
    assert content(scene.target) == payload
    expected = (
        STORE_FILES if scene.target.parent != Path(scene.job.root) / "files" else STORE_FILES | {"files/film.bin"}
    )
    assert files_under(scene.job.root) == expected
    assert not [name for name in files_under(scene.target.parent) if name.endswith(".part")]


@pytest.mark.parametrize(
    "prepare",
    [
        _fresh,
        _relaxed,
        _half_done,
        _other_generation,
        _replacing,
        _finished_file_gone,
        _finished_file_harmed,
        _unknown_length,
    ],
)
async def test_a_crash_before_every_step(processes: EngineProcesses, tmp_path: Path, prepare: Prepare) -> None:
    async with serve(NEW) as origin:
        for step in range(1, STEPS_MAX):
            here = tmp_path / str(step)
            here.mkdir()
            origin.script = plain
            scene: Scene = await prepare(processes, origin, here)  # type: ignore[misc]
            if prepare is not _unknown_length:
                origin.script = plain
            origin.serve(NEW)
            status = await processes.run(msgspec.structs.replace(scene.job, crash_at=step))
            assert status in {0, CRASHED}
            _check_after_crash(scene, NEW)
            if status == CRASHED:
                # Again, in the start after it: a little later each time, so that all of the recovery is met.
                if await processes.run(msgspec.structs.replace(scene.job, crash_at=1 + step % 23)) == CRASHED:
                    _check_after_crash(scene, NEW)
                assert await processes.run(scene.job) == 0
            _check_in_the_end(scene, NEW)
            shutil.rmtree(here)
            if status == 0:
                break
        assert status == 0, "the run never came to its end"
        assert step > 15


async def test_finalising_is_finished_without_the_server(processes: EngineProcesses, tmp_path: Path) -> None:
    """C8-C12: what was complete and checked is published by the start itself, whichever step the crash came before."""
    met = 0
    async with serve(NEW) as origin:
        for step in range(15, STEPS_MAX):
            here = tmp_path / str(step)
            here.mkdir()
            scene = await _fresh(processes, origin, here)
            if await processes.run(msgspec.structs.replace(scene.job, crash_at=step)) == 0:
                break
            (claim,) = claims(scene.job.root) or (None,)
            if claim is None or claim.part.phase is not PartPhase.FINALIZING:
                continue
            met += 1
            origin.forget()
            async with open_engine(scene.job.root, config=small(), resume=False) as engine:
                assert (await engine.get("film")).state is State.COMPLETED
                assert [event.what for event in engine.recovered] == ["publishing was finished"]
            assert origin.asked == []
            assert content(scene.target) == NEW
    assert met >= 3, "no crash came between the last check and the end"
