"""The command line, in this process or in one of its own, and an origin that can be watched."""

from __future__ import annotations

import json
import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine.cli.demo_origin import DemoOrigin

PACKAGE_PARENT = Path(__file__).parent.parent.parent
TIMEOUT_S = 60.0

SMALL = b"small " * 500
SLOW = 1e6  # bytes a second: the large file takes twelve seconds
LARGE = bytes(range(256)) * (12 * 4096)  # 12 MiB: over several connections


class WatchedOrigin(DemoOrigin):
    """Remembers the heads it was sent and counts connections; ``busy`` requests are answered 503 first."""

    def __init__(
        self, files: Mapping[str, str], *, bytes_per_s: float | None = None, tls: ssl.SSLContext | None = None
    ) -> None:
        super().__init__(files, bytes_per_s=bytes_per_s)
        self.heads: list[str] = []
        self.connections = 0
        self.busy = 0
        self._tls = tls

    def forget(self, path: str) -> None:
        """From now on it is 404."""
        del self._files[path]

    def prepare(self, connection: socket.socket) -> socket.socket:
        self.connections += 1
        return super().prepare(connection) if self._tls is None else self._tls.wrap_socket(connection, server_side=True)

    def send_file(self, connection: socket.socket, fd: int, offset: int, count: int) -> int:
        if self._tls is None:
            return super().send_file(connection, fd, offset, count)
        return connection.send(os.pread(fd, min(count, 65536), offset))

    def answer(self, connection: socket.socket, head: str) -> None:
        self.heads.append(head)
        if self.busy:
            self.busy -= 1
            connection.sendall(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")
            return
        super().answer(connection, head)


@dataclass(frozen=True)
class Said:
    """How a run of the command line ended."""

    code: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def objects(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.lines]

    @property
    def object(self) -> dict[str, Any]:
        [found] = self.objects
        return found


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "engine", *map(str, arguments)]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(PACKAGE_PARENT)}


def hear_interrupts() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a test run in the background hands its children an ignored one


@contextmanager
def started(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own; it does not outlive the block."""
    process = subprocess.Popen(
        command(*arguments),
        env=environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,  # noqa: PLW1509  # a test process without threads of its own to be hurt
    )
    with process:
        try:
            yield process
        finally:
            process.kill()


def ended(process: subprocess.Popen[str]) -> Said:
    """Wait for its end."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    return Said(process.returncode, out, err)


def run(*arguments: str | Path) -> Said:
    """The command line in a process of its own, from start to end."""
    with started(*arguments) as process:
        return ended(process)


def until(true: Callable[[], object]) -> float:
    """Wait for what another process does; how long that took."""
    began = time.monotonic()
    while not true():
        assert time.monotonic() < began + TIMEOUT_S
        time.sleep(0.02)
    return time.monotonic() - began


def state_of(cli: Callable[..., Said], entry_id: str) -> str:
    said = cli("show", "--json", entry_id)
    return str(said.object["state"]) if said.code == 0 else ""


@contextmanager
def downloading(root: Path, origin: WatchedOrigin, cli: Callable[..., Said]) -> Iterator[subprocess.Popen[str]]:
    """A process that is in the middle of a download ``mine``."""
    origin.bytes_per_s = SLOW
    with started("--root", root, "get", "--json", "--id", "mine", origin.url("/large.bin")) as process:
        until(lambda: process.poll() is not None or state_of(cli, "mine") == "in_progress")
        assert origin.wait_sent(200_000, TIMEOUT_S)
        yield process


def parts_in(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "files").iterdir()) if (root / "files").exists() else []
