"""The origin of the power tests, in a process of its own: it outlives the engines and keeps its port."""

from __future__ import annotations

import os
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import trio

from tests.fire.power_mounts import die_with_parent
from tests.fire.power_world import truth_of
from tests.support.origin import Asked, Origin, Reply, etag_of, serve

RECORDED_RATE = 1e6  # bytes a second and connection while a run is recorded: many commits a file


class _Served:
    """Bytes by the names in their URLs. ``/flip/<name>`` gives the other version from then on, ``/rate/<n>`` is the
    bytes a second of each connection (0: as fast as can be)."""

    def __init__(self) -> None:
        self.flipped: set[str] = set()
        self.rate: float | None = None

    def __call__(self, asked: Asked) -> Reply:
        _, verb, *rest = asked.target.split("/")
        if verb == "flip":
            self.flipped.add(rest[0])
        elif verb == "rate":
            self.rate = float(rest[0]) or None
        else:
            body = truth_of(verb, 2 if verb in self.flipped else 1)
            return Reply(body=body, etag=etag_of(body), rate=self.rate)
        return Reply(body=b"done")


async def _run(report: int) -> None:
    async with serve(b"", _Served()) as origin:
        os.write(report, origin.base.encode())
        os.close(report)
        await _forget_requests(origin)


async def _forget_requests(origin: Origin) -> None:
    while True:
        await trio.sleep(1)
        origin.asked.clear()


def tell(base: str, what: str) -> None:
    """Have the origin do something: ``flip/<name>``, ``rate/<bytes a second>``. Blocks."""
    with urllib.request.urlopen(f"{base}/{what}", timeout=30) as answer:
        assert answer.read() == b"done"


@contextmanager
def origin_process() -> Iterator[str]:
    """The origin's base URL, until the block ends. The caller has no threads."""
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            die_with_parent()
            os.close(ours)
            trio.run(_run, theirs)
        finally:
            os._exit(1)
    os.close(theirs)
    try:
        base = os.read(ours, 100).decode()
        os.close(ours)
        assert base, "the origin did not start"
        yield base
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
