"""Engines that are going to be killed, each under load and with a journal of what it was told: run as a module, one
process imports everything once and forks one for each life.

The journal is one JSON list a line: ``["begin", verb, id]``, ``["end", verb, id, outcome]``, ``["state", id, epoch,
state, reason]``, ``["progress", id, epoch, durable, received]``, ``["removed", id]``, ``["open"]``, ``["done"]``. Each
line is one write to a file that another process reads: a kill loses none that was written.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import sys
import time
import traceback
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import trio

from engine import Engine, EngineError, Progress, Removed, State, StateChanged, open_engine
from engine.config import MIB, Config
from engine.model.groups import GroupRequest
from engine.store import tombstones
from engine.store.txn import Txn
from tests.fire.kills_world import ALONE, CONFIG, GROUPS, Life, members_of, request

TRACER_WAIT_S = 5.0
FINALE_S = 60.0
STORM = (*["pause"] * 3, *["resume"] * 3, "cancel", *["offline"] * 4, *["remove"] * 3, "retry")
ACTORS = 3
AT_WORK = {State.PENDING, State.IN_PROGRESS}


class Journal:
    """Writes the journal of one life."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)

    def line(self, *words: object) -> None:
        """One line; it is out of this process when this returns."""
        os.write(self._fd, json.dumps(words).encode() + b"\n")

    @contextlib.contextmanager
    def verb(self, verb: str, target: str) -> Iterator[None]:
        """A verb that is being called, and how it ended. What the engine refuses on purpose ends only the verb."""
        self.line("begin", verb, target)
        outcome = "ok"
        try:
            yield
        except EngineError as error:
            outcome = error.code
        self.line("end", verb, target, outcome)


@dataclass(frozen=True)
class Player:
    """Plays one life on an open engine."""

    engine: Engine
    life: Life
    journal: Journal
    rng: random.Random

    async def listen(self) -> None:
        """Journal what the engine tells."""
        with self.engine.events() as events:
            async for event in events:
                if isinstance(event, StateChanged):
                    self.journal.line("state", event.id, event.epoch, event.state.value, event.reason.value)
                elif isinstance(event, Progress):
                    self.journal.line("progress", event.id, event.epoch, event.bytes_done, event.bytes_received)
                elif isinstance(event, Removed):
                    self.journal.line("removed", event.id)

    async def ask(self, entry_ids: list[str]) -> None:
        """Ask for entries one after the other."""
        for entry_id in entry_ids:
            with self.journal.verb("offline", entry_id):
                await self.engine.offline(request(self.life.base, entry_id))

    async def storm(self, actor: int) -> None:
        """Verbs on entries that no other actor touches, so that those of one entry come one by one."""
        mine = [entry_id for number, entry_id in enumerate(ALONE) if number % ACTORS == actor]
        engine, base = self.engine, self.life.base
        calls: dict[str, Callable[[str], Awaitable[object]]] = {
            "pause": engine.pause,
            "resume": engine.resume,
            "cancel": engine.cancel,
            "remove": engine.remove,
            "retry": engine.retry,
            "offline": lambda entry_id: engine.offline(request(base, entry_id)),
        }
        while True:
            verb, entry_id = self.rng.choice(STORM), self.rng.choice(mine)
            with self.journal.verb(verb, entry_id):
                await calls[verb](entry_id)
            await trio.sleep(self.rng.uniform(0.0, 0.04))

    async def regroup(self) -> None:
        """Add groups and take them away."""
        while True:
            group = self.rng.choice(GROUPS)
            if self.rng.random() < 0.6:
                await self.add_group(group)
            else:
                with self.journal.verb("remove_group", group):
                    await self.engine.remove_group(group)
            await trio.sleep(self.rng.uniform(0.0, 0.15))

    async def add_group(self, group: str) -> None:
        """Have a group offline."""
        asked = [(request(self.life.base, each), 1, place) for place, each in enumerate(members_of(group))]
        with self.journal.verb("add_group", group):
            await self.engine.add_group(GroupRequest(id=group, kind="album", title=group, members=tuple(asked)))

    async def disturb(self) -> None:
        """What changes no entry's state, and must harm none."""
        while True:
            await trio.sleep(self.rng.uniform(0.0, 0.1))
            turn = self.rng.randrange(5)
            if turn == 0:
                await self.engine.perform_maintenance_cleanup()
            elif turn == 1:
                self.engine.set_rate_limit(self.rng.choice((0, 400_000, 3_000_000)))
            elif turn == 2:
                with contextlib.suppress(EngineError):  # it is gone
                    await self.engine.prioritise(self.rng.choice(ALONE), self.rng.randrange(-2, 3), preempt=True)
            elif turn == 3:
                await self.engine.reconcile()
            else:
                await self.engine.get_download_health()

    async def play(self) -> None:
        """Until the kill."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self.listen)
            await trio.lowlevel.checkpoint()
            for entry in await self.engine.retry_failed():
                self.journal.line("end", "retry", entry.id, "ok")
            if self.life.calm:
                at_work = {entry.id for entry in await self.engine.list(limit=1000) if entry.state in AT_WORK}
                idle = [entry_id for entry_id in ALONE if entry_id not in at_work]  # the others would be begun anew
                nursery.start_soon(self.ask, self.rng.sample(idle, len(idle)))
                nursery.start_soon(self.add_group, GROUPS[0])
                return
            for actor in range(ACTORS):
                nursery.start_soon(self.storm, actor)
            nursery.start_soon(self.regroup)
            nursery.start_soon(self.disturb)

    async def finish(self) -> None:
        """Have all of it offline, and nothing left over."""
        with trio.fail_after(FINALE_S):
            await self.engine.resume_all()
            for group in GROUPS:
                await self.add_group(group)
            wanted = [*ALONE, *(each for group in GROUPS for each in members_of(group))]
            await self.ask(list(ALONE))
            for entry_id in wanted:
                await self.engine.wait(entry_id)
            await self.engine.perform_maintenance_cleanup()
            entries = await self.engine.list(limit=1000)
            assert {entry.id for entry in entries} == set(wanted)
            assert {entry.state for entry in entries} == {State.COMPLETED}
        self.journal.line("done")


def _no_tombstones() -> Config:
    """Removal forgets what it has still to delete."""

    def put(txn: Txn, tombstone: tombstones.Tombstone) -> tombstones.Tombstone:
        return tombstone

    setattr(tombstones, "_put", put)  # noqa: B010  # a mutant
    return CONFIG


def _no_window() -> Config:
    """Commits come whenever it pleases."""
    return replace(CONFIG, commit_window_bytes=64 * MIB, commit_interval_s=30.0)


def _early_answer() -> Config:
    """A verb is answered before anything is done."""

    async def pause(engine: Engine, entry_id: str) -> None:
        trio.lowlevel.spawn_system_task(_later, engine, entry_id)

    setattr(Engine, "pause", pause)  # noqa: B010  # a mutant
    return CONFIG


async def _later(engine: Engine, entry_id: str) -> None:
    await trio.sleep(0.05)
    with contextlib.suppress(EngineError):
        await engine._manager.pause(entry_id)


MUTANTS: dict[str, Callable[[], Config]] = {
    "": lambda: CONFIG,
    "no_tombstones": _no_tombstones,
    "no_window": _no_window,
    "early_answer": _early_answer,
}


async def live(life: Life) -> None:
    """One life."""
    journal = Journal(life.journal)
    async with open_engine(life.root, config=MUTANTS[life.mutant](), seed=1) as engine:
        journal.line("open", [(event.id, event.what) for event in engine.recovered])
        player = Player(engine, life, journal, random.Random(life.seed))
        await (player.finish() if life.finale else player.play())


def await_tracer() -> None:
    """Return when another process traces this one."""
    deadline = time.monotonic() + TRACER_WAIT_S
    while "TracerPid:\t0\n" in Path("/proc/self/status").read_text(encoding="ascii"):
        assert time.monotonic() < deadline, "no tracer came"
        time.sleep(0.005)


def _child(line: str) -> None:
    status = 1
    try:
        life = msgspec.json.decode(line, type=Life)
        if life.traced:
            await_tracer()
        trio.run(live, life)
        status = 0
    except BaseException:
        traceback.print_exc()
        raise
    finally:
        sys.stderr.flush()
        os._exit(status)


def main() -> None:
    """Serve lives until stdin ends."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            _child(line)
        print(json.dumps({"pid": pid}), flush=True)  # the protocol
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
