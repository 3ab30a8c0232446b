"""``demo``: the promise, shown. A download is killed half-way with SIGKILL, resumed, and checked independently."""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
from blake3 import blake3

import engine
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_line, warn
from engine.cli.demo_origin import DemoOrigin
from engine.cli.library import held_ranges, open_store
from engine.cli.one_interrupt import OneInterrupt
from engine.cli.text import rate, size
from engine.config import DEFAULT_CONFIG, MIB
from engine.errors import InvalidRequest, storage_error

CONNECTIONS = 4
SIZE_MIB_MIN, SIZE_MIB_MAX = 8, 64 * 1024
SEED = b"offline-engine demo"
BLOCK_BYTES = 4 * MIB
# The first run is slowed down, so that the kill meets it in the middle of its work and not in its last moment.
FIRST_RUN_S = 4.0
STEP_TIMEOUT_S = 300.0
LOOK_EVERY_S = 0.2  # whether the process still runs
_URL_PATH = "/film.bin"


class DemoFailed(Exception):
    """A step did not do what it should; the message says which."""


class KilledRun(msgspec.Struct, frozen=True):
    """What the killed process left. ``fetched`` bytes left the origin; ``held`` are claimed by the bitmap."""

    fetched: int
    held: int
    chunk_bytes: int
    seconds: float


def run(arguments: argparse.Namespace) -> int:
    """Show it; status 0 only when everything held. Raises InvalidRequest, StorageError."""
    if not SIZE_MIB_MIN <= arguments.size <= SIZE_MIB_MAX:
        raise InvalidRequest(f"--size must be {SIZE_MIB_MIN} to {SIZE_MIB_MAX} (MiB), not {arguments.size}")
    try:
        with OneInterrupt() as interrupts, _work_folder(arguments.root) as folder:
            return status.COMPLETE if _show(folder, arguments.size * MIB, interrupts) else status.FAILED
    except DemoFailed as error:
        warn(f"{PROGRAM} demo: {escape(str(error))}\nFAIL")
        return status.FAILED
    except BrokenPipeError:
        raise
    except OSError as error:
        raise storage_error(error, "the demo's own files") from error


@contextmanager
def _work_folder(parent: str | None) -> Iterator[str]:
    if parent is not None:
        os.makedirs(parent, mode=0o700, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="offline-engine-demo-", dir=parent) as folder:
        yield folder


def _show(folder: str, length: int, interrupts: OneInterrupt) -> bool:
    content = os.path.join(folder, "origin.bin")
    library = os.path.join(folder, "library")
    print_line(f"1. An origin of {size(length)} on loopback, deterministic pseudo-random bytes.")
    _write_content(content, length)
    with DemoOrigin({_URL_PATH: content}, bytes_per_s=length / FIRST_RUN_S) as origin:
        url = origin.url(_URL_PATH)
        print_line(f"2. {PROGRAM} get {url}, {CONNECTIONS} connections; killed with SIGKILL half-way.")
        command = _Command(url, library, interrupts)
        killed = _run_and_kill(origin, command, length)
        print_line(
            f"   killed after {killed.seconds:.1f} s: {size(killed.fetched)} had been sent,"
            f" {size(killed.held)} survive as claimed chunks"
        )
        origin.bytes_per_s = None
        print_line("3. The same command again, at full speed.")
        result = _run_again(command)
        fetched = origin.sent
    print_line("4. Both files, read and hashed by other libraries.")
    expected, found = _digests(content), _digests(result.path)
    _report(length, killed, result, fetched, found)
    checks = {
        "the published file has the origin's BLAKE3 and SHA-256": found == expected,
        "the engine told the same BLAKE3": result.blake3 == expected[0],
        **bytes_checks(length, killed, result, fetched),
    }
    for name, good in checks.items():
        print_line(f"   {'ok  ' if good else 'FAIL'} {name}")
    passed = all(checks.values())
    print_line("PASS" if passed else "FAIL")
    return passed


def _write_content(path: str, length: int) -> None:
    stream = blake3(SEED)
    with open(path, "xb") as file:
        file.writelines(
            stream.digest(length=min(BLOCK_BYTES, length - offset), seek=offset)
            for offset in range(0, length, BLOCK_BYTES)
        )


class _Command(msgspec.Struct, frozen=True):
    """The command line that is run twice."""

    url: str
    library: str
    interrupts: OneInterrupt

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[str]]:
        """It, in a process of its own, which does not outlive the block."""
        process: subprocess.Popen[str] | None = None
        try:
            with self.interrupts.held():
                process = self._start()
            yield process
        finally:
            if process is not None:
                process.kill()
                process.communicate()

    def _start(self) -> subprocess.Popen[str]:
        package_parent = os.path.dirname(os.path.dirname(os.path.abspath(engine.__file__)))
        path = os.pathsep.join(filter(None, [package_parent, os.environ.get("PYTHONPATH", "")]))
        # -P: not the folder that the demo is run in, which may be a checkout without the compiled core.
        command = [sys.executable, "-P", "-m", "engine", "--root", self.library, "get", self.url]
        return subprocess.Popen(
            [*command, "--json", "--no-progress", "--connections", str(CONNECTIONS)],
            env={**os.environ, "PYTHONPATH": path},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


def _run_and_kill(origin: DemoOrigin, command: _Command, length: int) -> KilledRun:
    began = time.monotonic()
    with command.running() as process:
        half_way = _wait_half_way(origin, process, length)
        process.kill()
        _, complaints = process.communicate()
    seconds = time.monotonic() - began
    origin.hang_up()
    if not half_way:
        raise DemoFailed(f"the engine ended or stood still before it could be killed: {complaints.strip()}")
    with open_store(command.library) as store:
        parts, held = held_ranges(store, store.list()[0])
    if not parts:
        raise DemoFailed("the engine had not begun its file before it was killed")
    return KilledRun(
        fetched=origin.sent,
        held=sum(end - start for start, end in held[0]),
        chunk_bytes=parts[0].chunk_bytes,
        seconds=seconds,
    )


def _wait_half_way(origin: DemoOrigin, process: subprocess.Popen[str], length: int) -> bool:
    """False when the process ended before, or got nowhere."""
    deadline = time.monotonic() + STEP_TIMEOUT_S
    while process.poll() is None and time.monotonic() < deadline:
        if origin.wait_sent(length // 2, LOOK_EVERY_S):
            return process.poll() is None
    return False


class ResumedRun(msgspec.Struct, frozen=True):
    """What the second run says of itself."""

    path: str
    blake3: str
    fetched: int
    resumed: int
    seconds: float


def _run_again(command: _Command) -> ResumedRun:
    with command.running() as process:
        try:
            output, complaints = process.communicate(timeout=STEP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            raise DemoFailed("the second run did not end") from None
    if process.returncode != status.COMPLETE:
        raise DemoFailed(f"the second run ended with status {process.returncode}: {output}{complaints}".strip())
    said = json.loads(output)
    return ResumedRun(said["path"], said["blake3"], said["bytes_fetched"], said["bytes_resumed"], said["seconds"])


def _digests(path: str) -> tuple[str, str]:
    """BLAKE3 by the ``blake3`` package and SHA-256 by OpenSSL: neither is the engine's own hashing."""
    with open(path, "rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return blake3().update_mmap(path).hexdigest(), sha256


def bytes_checks(length: int, killed: KilledRun, result: ResumedRun, fetched: int) -> dict[str, bool]:
    """Whether the bytes add up; ``fetched`` is what left the origin in both runs."""
    lost_max = DEFAULT_CONFIG.commit_window_bytes + CONNECTIONS * killed.chunk_bytes
    return {
        "every claimed byte was trusted": result.resumed == killed.held > 0,
        "only missing bytes were fetched": result.fetched == length - killed.held,
        f"lost no more than a commit window and a chunk a connection ({size(lost_max)})": fetched - length <= lost_max,
    }


def _report(length: int, killed: KilledRun, result: ResumedRun, fetched: int, hashes: tuple[str, str]) -> None:
    rows = (
        ("fetched", f"{size(fetched)} in both runs ({size(killed.fetched)} + {size(fetched - killed.fetched)})"),
        ("trusted", f"{size(result.resumed)} of the first run"),
        ("lost", f"{size(fetched - length)} fetched twice, {100 * (fetched - length) / length:.1f}% of the file"),
        ("first run", f"{rate(killed.fetched, killed.seconds)} (slowed down on purpose)"),
        ("second run", f"{rate(result.fetched, result.seconds)}, {result.seconds:.2f} s"),
        ("blake3", hashes[0]),
        ("sha256", hashes[1]),
    )
    for name, text in rows:
        print_line(f"   {name:<11} {text}")
