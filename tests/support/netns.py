"""Two machines with a cable between them: private network namespaces joined by veth, on this one kernel.

The engine under test runs in the test's own thread, which enters the first namespace; a server's listening socket is
opened in the second. Sockets stay where they were opened.
"""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

_libc = ctypes.CDLL(None, use_errno=True)
_numbers = itertools.count(1)
CLONE_NEWNET = 0x40000000
CLIENT_ADDRESS, SERVER_ADDRESS = "10.9.0.1", "10.9.0.2"


@dataclass(frozen=True)
class Cable:
    """Two namespaces; the interface ``cable`` of each leads to the other."""

    client: str
    server: str

    def ip(self, *words: str, at: str = "") -> str:
        """Run ``ip`` in the client's namespace, or in another."""
        done = subprocess.run(["ip", "-n", at or self.client, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def batch(self, lines: str) -> None:
        """Many of them at once."""
        subprocess.run(["ip", "-n", self.client, "-batch", "-"], input=lines, text=True, check=True)

    def down(self) -> None:
        """The client's interface is switched off; IPv4 keeps its address, routes are gone."""
        self.ip("link", "set", "cable", "down")

    def up(self) -> None:
        """And on again."""
        self.ip("link", "set", "cable", "up")

    def pull(self) -> None:
        """The other end is off: no carrier, and routes that lead nowhere."""
        self.ip("link", "set", "cable", "down", at=self.server)

    def plug(self) -> None:
        """And on again."""
        self.ip("link", "set", "cable", "up", at=self.server)

    def received(self, name: str) -> int:
        """Bytes that came to the client over an interface."""
        [link] = json.loads(self.ip("-s", "-j", "link", "show", name))
        return int(link["stats64"]["rx"]["bytes"])

    def second(self) -> None:
        """Another cable beside the first one, over which the server's address is reached as well, if one insists."""
        self.ip("link", "add", "spare", "type", "veth", "peer", "name", "spare", "netns", self.server)
        for at, address in ((self.client, "10.9.1.1/24"), (self.server, "10.9.1.2/24")):
            self.ip("addr", "add", address, "dev", "spare", at=at)
            self.ip("link", "set", "spare", "up", at=at)
        self.ip("route", "add", "default", "via", "10.9.1.2", "dev", "spare", "metric", "200")


@contextmanager
def cable() -> Iterator[Cable]:
    """Two namespaces and the way between them, removed afterwards. Fails where that is not allowed."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.fail("network namespaces need root and iproute2")
    number = f"{os.getpid()}-{next(_numbers)}"
    pair = Cable(f"oe-client-{number}", f"oe-server-{number}")
    try:
        for name in (pair.client, pair.server):
            subprocess.run(["ip", "netns", "add", name], check=True)
            pair.ip("link", "set", "lo", "up", at=name)
        pair.ip("link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", pair.server)
        for name, address in ((pair.client, CLIENT_ADDRESS), (pair.server, SERVER_ADDRESS)):
            pair.ip("addr", "add", f"{address}/24", "dev", "cable", at=name)
            pair.ip("link", "set", "cable", "up", at=name)
        with inside(pair.client):
            yield pair
    finally:
        for name in (pair.client, pair.server):
            subprocess.run(["ip", "netns", "del", name], check=False, stderr=subprocess.DEVNULL)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """Sockets that this thread opens in the block are of that namespace."""
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        other = os.open(Path("/run/netns") / name, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _enter(other)
        finally:
            os.close(other)
        try:
            yield
        finally:
            _enter(own)
            _bring_threads_home(own)
    finally:
        os.close(own)


def _bring_threads_home(own: int) -> None:
    """Threads begun in the block were born in its namespace, and trio keeps them: a later test's processes would start
    there, where nothing can be reached. The barrier has every idle one take a turn."""
    threads = threading.active_count()
    home = threading.Barrier(threads + 1)

    def go() -> None:
        _enter(own)
        home.wait(60)

    for _ in range(threads):
        trio.lowlevel.start_thread_soon(go, lambda outcome: outcome.unwrap())
    home.wait(60)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
