"""Engines in processes of their own with ``shim.c`` preloaded: a JSON job a line, as tests.support.engine_process."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import traceback
from pathlib import Path

import msgspec
import trio

from engine import EngineError
from engine.errors import sole_error
from tests.support.engine_process import Job, Report, run_job

# As in shim.c, in its order.
KINDS = ("pwrite", "writev", "fdatasync", "fsync", "ftruncate", "fallocate", "rename", "open", "unlink", "mkdir")
PATIENCE_S = 1.0
HOWS = ("fails", "short", "exits")


class NativeJob(Job, frozen=True, kw_only=True):
    """``at``: the call of that kind below the root which goes wrong (0: none), in the way of ``how``, with ``number``
    as its errno; with ``lasting`` those after it too."""

    kind: str = "pwrite"
    at: int = 0
    how: str = "fails"
    number: int = 0
    lasting: bool = False


class NativeReport(Report, frozen=True, kw_only=True):
    """``made``: how many calls of each kind there were; ``struck``: how many went wrong."""

    made: dict[str, int] = msgspec.field(default_factory=dict)
    struck: int = 0


async def _bounded(job: NativeJob) -> Report:
    """The run; on a day that lasts an entry may wait for a better one for ever, and the engine is closed then."""
    with trio.move_on_after(PATIENCE_S):
        return await run_job(job)
    return Report(error="waits")


def _child(line: str) -> None:
    shim = ctypes.CDLL(None)
    job = msgspec.json.decode(line, type=NativeJob)
    shim.fire_arm(
        job.root.encode(),
        KINDS.index(job.kind),
        ctypes.c_long(job.at),
        job.number,
        HOWS.index(job.how),
        int(job.lasting),
    )
    status = 0
    try:
        report = msgspec.structs.asdict(trio.run(_bounded, job))
    except BaseException as error:
        cause = sole_error(error)  # trio wraps it when patience ended in the same moment
        if not isinstance(cause, EngineError):
            traceback.print_exc()
            status = 1
        report = msgspec.structs.asdict(Report(error=cause.code if isinstance(cause, EngineError) else "untyped"))
    shim.fire_made.restype = shim.fire_struck.restype = ctypes.c_long
    made = {kind: shim.fire_made(place) for place, kind in enumerate(KINDS)}
    told = NativeReport(**report, made=made, struck=shim.fire_struck())
    Path(job.report).write_bytes(msgspec.json.encode(told))
    sys.stderr.flush()
    os._exit(status)


def main() -> None:
    """Serve jobs until stdin ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(line)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
