"""A line between two network namespaces, with delay, loss and a rate: see ``line.c``."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.children import end_with_parent

HERE = os.path.dirname(os.path.abspath(__file__))
SERVER_ADDRESS = "10.99.0.2"  # as in line.c
SEED = 7
NEEDS = ("cc", "ip", "nsenter", "sysctl")


@dataclass(frozen=True, slots=True)
class Quality:
    """``delay_s`` one way; ``loss``: that share of the packets of each direction; ``rate``: bytes a second, 0 for any
    number, with a queue of ``queue_bytes`` before it."""

    delay_s: float
    loss: float
    rate: int = 0
    queue_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """What to put before a command so that it runs at the client's, or the server's, end."""

    client: tuple[str, ...]
    server: tuple[str, ...]


@contextlib.contextmanager
def line(bench: Bench, quality: Quality, *, congestion_control: str = "") -> Iterator[Line]:
    """A line for the block. ``congestion_control``: the server's; empty: the machine's own. Needs root."""
    peers.require(*NEEDS)
    binary = peers.compiled(os.path.join(HERE, "line.c"), os.path.join(bench.workspace.folder("line"), "line"))
    words = [str(int(quality.delay_s * 1e6)), str(int(quality.loss * 1e6)), str(SEED)]
    relay = subprocess.Popen(
        [binary, *words, str(quality.rate), str(quality.queue_bytes)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # the harness has one thread
    )
    try:
        assert relay.stdout is not None
        told = relay.stdout.readline().split()
        if len(told) != 3:
            raise RuntimeError("the line could not be set up (it needs root and /dev/net/tun)")
        pid, client, server = told
        ends = Line(_enter(pid, client), _enter(pid, server))
        if congestion_control:
            setting = f"net.ipv4.tcp_congestion_control={congestion_control}"
            subprocess.run([*ends.server, "sysctl", "-qw", setting], check=True)
        yield ends
    finally:
        relay.terminate()
        relay.wait(timeout=10)


def _enter(pid: str, descriptor: str) -> tuple[str, ...]:
    return ("nsenter", f"--net=/proc/{pid}/fd/{descriptor}")
