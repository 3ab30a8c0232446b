"""Machines that give less than an engine wants: process limits, a memory cgroup, disks that are full, slow or turn
read-only. All of it needs root; without it the tests fail.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import msgspec
import trio

from tests.fire.limits_child import LIMITS, Job
from tests.support.engine_process import REPOSITORY

MEMORY = Path("/sys/fs/cgroup/memory")


class Limited:
    """An engine in a process of its own, and what it told so far."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.lines: list[list[Any]] = []
        self._rest = bytearray()

    async def until(self, *words: object) -> list[Any]:
        """Read until it told a line with these words among its own; returns the line."""
        for line in self.lines:
            if set(words) <= set(_flat(line)):
                return line
        while True:
            line = await self._next()
            assert line, f"it ended without {words}: {self.lines[-5:]}"
            if set(words) <= set(_flat(line)):
                return line

    async def end(self) -> dict[str, Any]:
        """Its last line, once it has ended in order."""
        while await self._next():
            pass
        status = await self.process.wait()
        assert status == 0, f"it ended with {status}: {self.lines[-5:]}"
        found: dict[str, Any] = self.lines[-1][1]
        return found

    async def killed(self) -> int:
        """Its exit status, however it ended."""
        while await self._next():
            pass
        return await self.process.wait()

    async def go(self) -> None:
        """It need not stay."""
        assert self.process.stdin is not None
        await self.process.stdin.send_all(b"go\n")

    def lift(self, name: str) -> None:
        """Take a limit away."""
        _, hard = resource.prlimit(self.process.pid, LIMITS[name])
        resource.prlimit(self.process.pid, LIMITS[name], (hard, hard))

    def told(self, code: str) -> bool:
        """Whether an error of that code was told."""
        return any(code in _flat(line) for line in self.lines)

    async def _next(self) -> list[Any]:
        assert self.process.stdout is not None
        while b"\n" not in self._rest:
            data = await self.process.stdout.receive_some(65536)
            if not data:
                return []
            self._rest += data
        line, _, rest = bytes(self._rest).partition(b"\n")
        self._rest = bytearray(rest)
        decoded: list[Any] = json.loads(line)
        self.lines.append(decoded)
        return decoded


def _flat(line: list[Any]) -> list[object]:
    return [word for word in line if isinstance(word, str | int)]


@asynccontextmanager
async def running(job: Job, *tracing: str) -> AsyncIterator[Limited]:
    """An engine until the block ends; ``tracing``: options of an strace that looks over its shoulder."""
    command = [sys.executable, "-m", "tests.fire.limits_child", msgspec.json.encode(job).decode()]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(command, stdin=PIPE, stdout=PIPE, cwd=REPOSITORY)
        assert process.stdin is not None
        assert process.stdout is not None
        if tracing:
            tracer = ["strace", "-f", "-qqq", "-o", "/dev/null", "-e", "signal=none", *tracing, "-p", str(process.pid)]
            nursery.start_soon(partial(trio.run_process, tracer, check=False))  # it ends with the process
        try:
            yield Limited(process)
        finally:
            with trio.CancelScope(shield=True):
                if process.returncode is None:
                    process.kill()
                await process.wait()
                await process.stdin.aclose()
                await process.stdout.aclose()


@dataclass(frozen=True, slots=True)
class MemoryGroup:
    """A memory cgroup (v1)."""

    path: Path

    def number(self, name: str) -> int:
        """One of its numbers."""
        return int((self.path / name).read_text(encoding="ascii"))


@contextmanager
def memory_group(name: str, limit: int) -> Iterator[MemoryGroup]:
    """A cgroup whose processes, with their page cache, have no more than ``limit`` bytes."""
    path = MEMORY / f"offline-engine-{os.getpid()}-{name}"
    path.mkdir()
    try:
        (path / "memory.limit_in_bytes").write_text(str(limit), encoding="ascii")
        yield MemoryGroup(path)
    finally:
        path.rmdir()


@dataclass(frozen=True, slots=True)
class Ext4:
    """An ext4 in a file, mounted at ``path``."""

    image: Path
    path: Path

    def abort(self) -> None:
        """What the kernel does to it on an error of its own: read-only from now on, in the middle of everything."""
        run("mount", "-o", "remount,abort", str(self.path))

    def mend(self) -> None:
        """Check it and mount it again."""
        run("umount", "-l", str(self.path))
        run("e2fsck", "-fy", str(self.image), ok=(0, 1))
        run("mount", "-o", "loop", str(self.image), str(self.path))


@contextmanager
def mounted_ext4(folder: Path, size: int, *options: str) -> Iterator[Ext4]:
    """An ext4 of ``size`` bytes; ``options`` of mkfs."""
    image, path = folder / "image", folder / "ext4"
    path.mkdir(parents=True)
    with open(image, "wb") as file:
        file.truncate(size)
    run("mkfs.ext4", "-q", "-F", *options, str(image))
    run("mount", "-o", "loop", str(image), str(path))
    try:
        yield Ext4(image, path)
    finally:
        run("umount", "-l", str(path))


def run(*command: str, ok: tuple[int, ...] = (0,)) -> None:
    """Run a tool."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in ok, f"{' '.join(command)} (as root?): {done.stdout}{done.stderr}"
