"""A line between two network namespaces, with delay, loss and a rate: see ``line.c``."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from benchmarks import peers
from benchmarks.children import end_with_parent

HERE = os.path.dirname(os.path.abspath(__file__))
SERVER_ADDRESS = "10.99.0.2"  # as in line.c
SEED = 7
CONTROL = "/proc/sys/net/ipv4/tcp_congestion_control"  # the file is that of the process's own namespace
NEEDS = ("cc", "ip", "nsenter")


@dataclass(frozen=True, slots=True)
class Quality:
    """``delay_s`` one way; of the packets of each direction, ``loss``, ``doubled`` and ``swapped`` (with the one
    before) are shares; ``rate``: bytes a second, 0 for any number, with a queue of ``queue_bytes`` before it."""

    delay_s: float
    loss: float
    doubled: float = 0.0
    swapped: float = 0.0
    rate: int = 0
    queue_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Line:
    """The network namespaces of its two ends, as paths."""

    client_namespace: str
    server_namespace: str

    @property
    def client(self) -> tuple[str, ...]:
        """What to put before a command so that it runs at the client's end."""
        return ("nsenter", f"--net={self.client_namespace}")

    @property
    def server(self) -> tuple[str, ...]:
        """The same for the server's."""
        return ("nsenter", f"--net={self.server_namespace}")


@contextlib.contextmanager
def line(folder: str, quality: Quality, *, congestion_control: str = "") -> Iterator[Line]:
    """A line for the block, built in ``folder``. ``congestion_control``: the server's; empty: the machine's own. Needs
    root."""
    peers.require(*NEEDS)
    binary = peers.compiled(os.path.join(HERE, "line.c"), os.path.join(folder, "line"))
    shares = (quality.delay_s, quality.loss, quality.doubled, quality.swapped)
    words = [str(int(share * 1e6)) for share in shares] + [str(SEED)]
    with subprocess.Popen(
        [binary, *words, str(quality.rate), str(quality.queue_bytes)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # the harness has one thread
    ) as relay:
        try:
            assert relay.stdout is not None
            told = relay.stdout.readline().split()
            if len(told) != 3:
                raise RuntimeError("the line could not be set up (it needs root and /dev/net/tun)")
            pid, client, server = told
            ends = Line(f"/proc/{pid}/fd/{client}", f"/proc/{pid}/fd/{server}")
            if congestion_control:
                subprocess.run(
                    [*ends.server, "tee", CONTROL],
                    input=congestion_control,
                    text=True,
                    check=True,
                    stdout=subprocess.DEVNULL,
                )
            yield ends
        finally:
            relay.terminate()
