"""An engine under limits of its process: run as a module with a JSON job as its argument.

It writes one JSON list a line: ``["open", pid]``, ``["state", id, state, reason, code]`` and in the end
``["end", {"peak_kib": …, "late_s": …, "states": …}]``: the most memory it had resident, and how late the loop's timer
was at worst.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio
import trio.testing

from engine import DownloadRequest, Engine, EngineError, State, StateChanged, open_engine
from tests.fire.kills_child import await_tracer
from tests.support.library import small

LIMITS = {"NOFILE": resource.RLIMIT_NOFILE, "FSIZE": resource.RLIMIT_FSIZE, "AS": resource.RLIMIT_AS}
TICK_S = 0.01


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """``limits``: soft limits taken on once the engine is open; of NOFILE and AS that much beyond what it has by then.
    ``early``: the same, before it is opened. ``cgroup``: joined before anything, or (``join_late``) once it is open.
    ``defaults``: the engine as it comes. ``traced``: begin once a tracer is there.
    ``stay``: until a line comes on stdin, even if nothing is left to do."""

    root: str
    urls: dict[str, str]
    config: dict[str, Any] = {}
    defaults: bool = False
    limits: dict[str, int] = {}
    early: dict[str, int] = {}
    cgroup: str = ""
    join_late: bool = False
    traced: bool = False
    connections: int | None = None
    stay: bool = False


def say(*words: object) -> None:
    """One line to the test."""
    os.write(1, json.dumps(words).encode() + b"\n")


def _take_on(limits: dict[str, int]) -> None:
    has = {"NOFILE": len(os.listdir("/proc/self/fd")), "AS": _status_kib("VmSize") * 1024, "FSIZE": 0}
    for name, value in limits.items():
        _, hard = resource.getrlimit(LIMITS[name])
        resource.setrlimit(LIMITS[name], (has[name] + value, hard))


def _status_kib(field: str) -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1])
    raise KeyError(field)


async def _tell(engine: Engine) -> None:
    with engine.events() as events:
        async for event in events:
            if isinstance(event, StateChanged):
                code = event.error.code if event.error is not None else ""
                say("state", event.id, event.state.value, event.reason.value, code)


async def _measure(late: list[float]) -> None:
    while True:
        due = trio.current_time() + TICK_S
        await trio.sleep_until(due)
        late[0] = max(late[0], trio.current_time() - due)


def _join(cgroup: str) -> None:
    Path(cgroup, "cgroup.procs").write_text(f"{os.getpid()}\n", encoding="ascii")


async def _ask(engine: Engine, request: DownloadRequest) -> None:
    """Ask until the engine can take it on record, telling why it cannot."""
    while True:
        try:
            await engine.offline(request)
        except EngineError as error:
            say("refused", request.id, error.code)
            await trio.sleep(0.1)
        else:
            return


async def _rest(engine: Engine, ids: Sequence[str]) -> None:
    """Until everything came to an end."""
    while True:
        states = [(await engine.get(each)).state for each in ids]
        if all(state in {State.COMPLETED, State.FAILED} for state in states):
            return
        await trio.sleep(0.02)


async def run(job: Job) -> None:
    """The whole job."""
    if job.cgroup and not job.join_late:
        _join(job.cgroup)
    _take_on(job.early)
    late = [0.0]
    config = msgspec.convert(job.config, dict[str, Any])
    options: dict[str, Any] = {} if job.defaults else {"config": small(**config)}
    async with open_engine(job.root, seed=1, **options) as engine, trio.open_nursery() as nursery:
        nursery.start_soon(_tell, engine)
        nursery.start_soon(_measure, late)
        await trio.testing.wait_all_tasks_blocked()
        _take_on(job.limits)
        if job.join_late:
            _join(job.cgroup)
        say("open", os.getpid())
        for entry_id, url in job.urls.items():
            await _ask(engine, DownloadRequest(url=url, id=entry_id, connections=job.connections))
        await _rest(engine, list(job.urls))
        if job.stay:
            await trio.to_thread.run_sync(sys.stdin.readline)
            for failed in await engine.retry_failed():
                say("retried", failed.id)
            await _rest(engine, list(job.urls))
        states = {each: (await engine.get(each)).state.value for each in job.urls}
        nursery.cancel_scope.cancel()
    say("end", {"peak_kib": _status_kib("VmHWM"), "late_s": late[0], "states": states})


def main() -> int:
    """Exit status 1, and ``["unopened", code]``, when the engine could not be opened."""
    job = msgspec.json.decode(sys.argv[1], type=Job)
    if job.traced:
        await_tracer()
    try:
        trio.run(run, job)
    except EngineError as error:
        say("unopened", error.code)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
