"""Engines in processes of their own, to be killed: one process imports everything once and forks one for each job.

Run as a module it is that process: a JSON job a line on stdin; ``{"pid": …}`` and then ``{"exit": …}`` on stdout.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Any

import msgspec
import trio

from engine import Download, DownloadFailed, DownloadRequest, Durability, open_engine
from engine.store.environment import Environment
from tests.support.library import small
from tests.support.steps import Steps, step_transactions, stepping_files
from tests.support.upkeep import upkeep_of

REPOSITORY = Path(__file__).resolve().parents[2]
CRASHED = 99


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """One engine run: a download, and where it shall crash. ``report`` is a file for what the run did.

    ``crash_at``: before this durable step (from 1) the process ends at once; 0 for never. A step is a file system call
    that changes something, or the beginning or end of a store transaction. ``repair``: mend the finished file instead
    of asking for it, and clean up after it.
    """

    root: str
    url: str
    report: str
    id: str = "film"
    durability: str = Durability.STRICT
    connections: int | None = None
    destination: str | None = None
    overwrite: bool = False
    expect: dict[str, str] = {}
    config: dict[str, Any] = {}
    crash_at: int = 0
    repair: bool = False


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a run that came to its end did. ``steps``: durable steps taken, with their names."""

    path: str = ""
    blake3: str = ""
    bytes_fetched: int = 0
    bytes_resumed: int = 0
    error: str = ""
    recovered: tuple[str, ...] = ()
    steps: tuple[str, ...] = ()


async def run_job(job: Job) -> Report:
    """The engine run itself."""
    steps = Steps(job.crash_at, lambda: os._exit(CRASHED))  # as a crash does: nothing is unwound
    step_transactions(steps, Environment)
    request = DownloadRequest(
        url=job.url,
        id=job.id,
        durability=Durability(job.durability),
        connections=job.connections,
        destination=job.destination,
        overwrite=job.overwrite,
        expect=job.expect,
    )
    path, digest, error = "", "", ""
    async with open_engine(job.root, config=small(**job.config), files=stepping_files(steps), seed=1) as engine:
        if job.repair:
            await upkeep_of(engine).repairs.repair(job.id)
        download = Download(engine, job.id) if job.repair else await engine.offline(request)
        try:
            offline = await download.wait()
            path, digest = offline.path, offline.blake3
        except DownloadFailed as failed:
            error = failed.cause_code
        if job.repair:
            await upkeep_of(engine).maintenance.clean()
    stats = download.stats
    return Report(
        path=path,
        blake3=digest,
        bytes_fetched=stats.bytes_fetched,
        bytes_resumed=stats.bytes_resumed,
        error=error,
        recovered=tuple(event.what for event in engine.recovered),
        steps=tuple(steps.taken),
    )


def _child(line: str) -> None:
    status = 1
    try:
        job = msgspec.json.decode(line, type=Job)
        report = trio.run(run_job, job)
        Path(job.report).write_bytes(msgspec.json.encode(report))
        status = 0
    finally:
        sys.stderr.flush()
        if sys.exc_info()[0] is not None:
            sys.excepthook(*sys.exc_info())
        os._exit(status)


def main() -> None:
    """Serve jobs until stdin ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(line)
        print(json.dumps({"pid": pid}), flush=True)  # the protocol
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


class EngineProcesses:
    """The other end: starts one engine after the other."""

    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._line = bytearray()

    async def run(self, job: Job) -> int:
        """Run a job to its end; returns the exit status, 99 for a crash at the chosen step."""
        await self.start(job)
        return await self.wait()

    async def start(self, job: Job) -> int:
        """Begin a job; returns the engine's process id."""
        assert self._process.stdin is not None
        Path(job.report).unlink(missing_ok=True)
        await self._process.stdin.send_all(msgspec.json.encode(job) + b"\n")
        return int((await self._read())["pid"])

    async def wait(self) -> int:
        """The exit status of the engine that was started; negative for a signal."""
        return int((await self._read())["exit"])

    async def kill(self, pid: int) -> int:
        """SIGKILL for the engine; returns its exit status, which is 0 when it was faster."""
        with contextlib.suppress(ProcessLookupError):  # it ended by itself a moment ago
            os.kill(pid, signal.SIGKILL)
        return await self.wait()

    async def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        while b"\n" not in self._line:
            data = await self._process.stdout.receive_some(4096)
            assert data, "the process that runs engines has ended"
            self._line += data
        line, _, rest = bytes(self._line).partition(b"\n")
        self._line = bytearray(rest)
        decoded: dict[str, Any] = json.loads(line)
        return decoded


def report_of(job: Job) -> Report:
    """What a run that ended by itself reported."""
    return msgspec.json.decode(Path(job.report).read_bytes(), type=Report)


@asynccontextmanager
async def engine_processes() -> AsyncIterator[EngineProcesses]:
    """The forking process, until the block ends."""
    command = [sys.executable, "-m", "tests.support.engine_process"]
    process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, cwd=REPOSITORY)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        yield EngineProcesses(process)
    finally:
        with trio.CancelScope(shield=True):
            await process.stdin.aclose()
            with trio.move_on_after(5):
                await process.wait()
            if process.returncode is None:
                process.kill()
                await process.wait()
            await process.stdout.aclose()


if __name__ == "__main__":
    main()
