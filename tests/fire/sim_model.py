"""Entries, groups, scopes, quotas, priorities and repairs against a model of dictionaries, on the simulator's fakes.

Nothing fails here but what the user does, power cuts included, so that the model knows everything exactly: while the
hosts are clogged what goes on is on its way, and at rest every entry, group and file is as the model says.
``python -m tests.fire.sim_model --seeds 1000 --from 0``.
"""

from __future__ import annotations

import argparse
import math
import os
import random
import shutil
import sys
import tempfile
import time
from contextlib import AbstractAsyncContextManager

import trio
import trio.testing

from engine import DownloadRequest, Engine, GroupRequest, Health, Reason, State, open_engine
from engine.errors import IllegalTransition, UnknownEntry, UnknownGroup, sole_error
from engine.model.events import EngineEvent
from engine.model.lines import Line
from engine.net.client import Client
from engine.network.monitor import StaticMonitor
from tests.fire.judge import Day, judge
from tests.fire.options import counted, ended, interrupted_between
from tests.fire.sim import CONFIG, Crash
from tests.fire.sim_disk import GRAVES, SimDisk
from tests.fire.sim_faults import Faults
from tests.fire.sim_model_rules import (
    BAD,
    CHUNKS,
    COMPLETED,
    DISK,
    GOING,
    GROUPS,
    NO_ROOM,
    PAUSED,
    QUOTA_SCOPE,
    RULES,
    SCOPES,
    Model,
)
from tests.fire.sim_net import Net, SimDialer, Wire
from tests.fire.sim_origin import Media, Servers
from tests.fire.sim_process import memory_folder, one_process, random_of, seeded_scheduler

HOST = "a.example"


class OneBad(Servers):
    """Servers that have all files but one."""

    def serve(self, host: str, head: bytes) -> Wire:
        if f"/{BAD}.bin".encode() in head:
            return iter([(0.0, b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")])
        return super().serve(host, head)


class Life:
    """One library in the folder ``home``, through a random sequence."""

    def __init__(self, seed: int, home: str) -> None:
        self.rng = random_of(seed, "model")
        self.done: list[str] = []
        self._root = os.path.join(home, "library")
        os.mkdir(os.path.join(home, GRAVES))
        faults = Faults(random.Random(seed), {}, calm=True)
        folder = os.path.join(self._root, "files")
        self._disk = SimDisk([folder], os.path.join(home, GRAVES), faults, lambda: None)
        self._servers = OneBad(faults, lambda _: None)
        for entry_id in SCOPES:
            data = self.rng.randbytes(CHUNKS * CONFIG.small_chunk_bytes - 5)
            self._servers.media[f"{entry_id}.bin"] = Media(f"{entry_id}.bin", "etag", True, False, versions=[data])
        self._net = Net(faults, self._servers.serve)
        self._faults = faults
        self._model = Model()

    async def run(self) -> None:
        """All of it."""
        with one_process(self._disk, self._faults, _ignore, _ignore):
            for _ in range(self.rng.randint(1, 4)):
                try:
                    async with self._engine() as engine:
                        await self._session(engine)
                except* Crash:
                    self._disk.live()
                    self._disk.cut_power()
            async with self._engine() as engine:
                await self._rest(engine)
            self._judge()
        self._disk.forget()

    def _engine(self) -> AbstractAsyncContextManager[Engine]:
        client = Client(CONFIG, dialer=SimDialer(self._net))
        line = StaticMonitor(Line(connected=True))
        return open_engine(self._root, config=CONFIG, files=self._disk, client=client, network=line, seed=1)

    async def _session(self, engine: Engine) -> None:
        names, weights = list(STEPS), list(STEPS.values())
        for _ in range(self.rng.randint(3, 25)):
            [name] = self.rng.choices(names, weights)
            self.done.append(name)
            await getattr(self, f"_{name}")(engine)
            if self.rng.random() < 0.5:
                await self._look(engine)
        if self.rng.random() < 0.5:
            self.done.append("crash")
            self._disk.die()
            self._net.clogged.clear()
            raise Crash
        await self._rest(engine)

    async def _clog(self, engine: Engine) -> None:
        await self._look(engine)
        self._net.clogged[HOST] = math.inf

    async def _rest(self, engine: Engine) -> None:
        self._net.clogged.clear()
        self._net.changed()
        with trio.fail_after(600):
            while any(_going(entry.state) for entry in await engine.list()):  # noqa: ASYNC110  # a virtual clock
                await trio.sleep(0.1)
        self._model.rest()
        await self._look(engine)

    async def _look(self, engine: Engine) -> None:
        """Everything is as the model says; what it has on its way may be at its end, unless the hosts are clogged."""
        await trio.sleep(0.05)
        model = self._model
        if not self._net.clogged and any(known.state == GOING for known in model.entries.values()):
            await self._rest(engine)
            return
        found = {entry.id: entry for entry in await engine.list()}
        assert found.keys() == model.entries.keys(), f"{sorted(found)} for {sorted(model.entries)}"
        for entry_id, known in model.entries.items():
            entry = found[entry_id]
            state = GOING if _going(entry.state) else entry.state.value
            state = DISK if state == PAUSED and entry.state_reason in {Reason.DISK, Reason.QUOTA} else state
            tried = known.state == DISK and state == GOING  # whether there is room by now
            assert state == known.state or tried, f"{entry_id} is {state} ({entry.state_reason}), not {known.state}"
            assert entry.priority == known.priority, f"{entry_id} has {entry.priority}"
        for name, scope in GROUPS.items():
            await self._look_at_group(engine, name, scope)
        for scope in ("", "s"):
            page = await engine.list_scope(scope)
            assert {one.id for one in page.items} == {one for one in model.entries if SCOPES[one] == scope}

    async def _look_at_group(self, engine: Engine, name: str, scope: str) -> None:
        places = self._model.groups.get(name)
        try:
            members = (await engine.group_members(name, scope=scope)).items
        except UnknownGroup:
            assert places is None, f"the group {name} is not there"
            return
        assert places == {member.position: member.entry_id for member in members}
        for member in members:
            assert (member.state is None) == (member.entry_id not in self._model.entries)

    def _judge(self) -> None:
        truths = {entry_id: self._servers.media[f"{entry_id}.bin"].versions for entry_id in SCOPES}
        violations = judge(self._root, Day(truths=truths, config=CONFIG, rested=True))
        assert not violations, violations
        folder = os.path.join(self._root, "files")
        names = {name for name in (os.listdir(folder) if os.path.isdir(folder) else ()) if not name.startswith(".")}
        done = {f"{one}.bin" for one, known in self._model.entries.items() if known.state == COMPLETED}
        assert names == done, f"{names} for {done}"

    # What the user does.

    def _request(self, entry_id: str) -> DownloadRequest:
        known = self._model.entries.get(entry_id)
        priority = 0 if known is None else known.priority
        return DownloadRequest(
            url=f"http://{HOST}/{entry_id}.bin", id=entry_id, scope=SCOPES[entry_id], priority=priority
        )

    async def _add(self, engine: Engine) -> None:
        entry_id = self.rng.choice(list(SCOPES))
        await engine.offline(self._request(entry_id))
        self._model.ask(entry_id, own=True)

    async def _verb(self, engine: Engine) -> None:
        """What has ended by itself meanwhile is known before it is spoken to."""
        await self._look(engine)
        verb, entry_id = self.rng.choice(("pause", "resume", "retry", "cancel")), self.rng.choice(list(SCOPES))
        known = self._model.entries.get(entry_id)
        if verb == "retry" and known is not None and known.state == DISK:
            return  # it may be trying just now
        right = "unknown" if known is None else "done" if known.state in RULES[verb] else "illegal"
        answer = "done"
        try:
            await getattr(engine, verb)(entry_id)
        except UnknownEntry:
            answer = "unknown"
        except IllegalTransition:
            answer = "illegal"
        assert answer == right, f"{verb} {entry_id}, which is {known}: {answer}"
        if known is not None and answer == "done":
            known.state = RULES[verb][known.state]

    async def _prioritise(self, engine: Engine) -> None:
        entry_id, priority = self.rng.choice(list(SCOPES)), self.rng.randint(-5, 5)
        if entry_id in self._model.entries:
            await engine.prioritise(entry_id, priority, preempt=self.rng.random() < 0.5)
            self._model.entries[entry_id].priority = priority

    async def _remove(self, engine: Engine) -> None:
        entry_id = self.rng.choice(list(SCOPES))
        known = self._model.entries.get(entry_id)
        if known is None:
            return
        held_by = await engine.remove(entry_id)
        assert set(held_by) == self._model.holders(entry_id)
        known.own = False
        self._model.let_go([entry_id])

    async def _remove_all(self, engine: Engine) -> None:
        scope = self.rng.choice((None, "s"))
        await engine.remove_all(scope)
        for entry_id in [one for one in self._model.entries if scope in {None, SCOPES[one]}]:
            del self._model.entries[entry_id]

    async def _reset(self, engine: Engine) -> None:
        await engine.reset("s")
        for entry_id in [one for one in self._model.entries if SCOPES[one] == "s"]:
            del self._model.entries[entry_id]
        for name in [name for name in self._model.groups if GROUPS[name] == "s"]:
            del self._model.groups[name]

    async def _add_group(self, engine: Engine) -> None:
        name = self.rng.choice(list(GROUPS))
        chosen = self._chosen(name)
        request = GroupRequest(id=name, scope=GROUPS[name], title=name, members=self._members(chosen))
        change = await engine.add_group(request)
        assert change.refused == ()
        places = self._model.groups.setdefault(name, {})
        ousted = [places[at] for at in range(len(chosen)) if at in places]
        places.update(enumerate(chosen))
        for entry_id in chosen:
            self._model.ask(entry_id, own=False)
        self._model.let_go(ousted)

    async def _set_members(self, engine: Engine) -> None:
        name = self.rng.choice(list(GROUPS))
        chosen, before = self._chosen(name), self._model.groups.get(name)
        try:
            await engine.set_group_members(name, self._members(chosen), scope=GROUPS[name])
        except UnknownGroup:
            assert before is None
            return
        assert before is not None
        self._model.groups[name] = dict(enumerate(chosen))
        for entry_id in chosen:
            if entry_id not in before.values() or entry_id not in self._model.entries:
                self._model.ask(entry_id, own=False)
        self._model.let_go(before.values())

    async def _remove_group(self, engine: Engine) -> None:
        name = self.rng.choice(list(GROUPS))
        await engine.remove_group(name, scope=GROUPS[name])
        self._model.let_go(self._model.groups.pop(name, {}).values())

    def _chosen(self, name: str) -> list[str]:
        ids = [one for one, scope in SCOPES.items() if scope == GROUPS[name]]
        return self.rng.sample(ids, self.rng.randint(0, len(ids)))

    def _members(self, chosen: list[str]) -> tuple[tuple[DownloadRequest, int, int], ...]:
        return tuple((self._request(entry_id), 1, at) for at, entry_id in enumerate(chosen))

    async def _set_quota(self, engine: Engine) -> None:
        await self._look(engine)
        quota = self.rng.choice((None, NO_ROOM))
        await engine.set_quota(QUOTA_SCOPE, quota)
        assert engine.quota(QUOTA_SCOPE) == (quota or 0)
        self._model.quota = quota
        if quota is None:
            self._model.no_bound()

    async def _repair(self, engine: Engine) -> None:
        """A chunk of a finished file rots, is found, and fetched again."""
        await self._rest(engine)
        done = [one for one, known in self._model.entries.items() if known.state == COMPLETED]
        if not done:
            return
        entry_id = self.rng.choice(done)
        offline = await engine.offline_entry(entry_id)
        assert offline is not None
        self._disk.rot(offline.path, self.rng.randrange(offline.size - 4), b"\0rot")
        [seen] = await engine.validate_downloads([entry_id])
        assert seen.health is Health.CORRUPT
        await engine.repair(entry_id)
        await self._rest(engine)
        [seen] = await engine.validate_downloads([entry_id])
        assert seen.health is Health.VALID


STEPS = {
    "add": 6,
    "verb": 10,
    "prioritise": 2,
    "remove": 3,
    "remove_all": 1,
    "reset": 1,
    "add_group": 5,
    "set_members": 3,
    "remove_group": 2,
    "set_quota": 2,
    "repair": 2,
    "clog": 3,
    "rest": 2,
}


def _going(state: State) -> bool:
    return state in {State.PENDING, State.IN_PROGRESS}


def _ignore(_what: EngineEvent | str) -> None:
    """Nobody listens."""


def play(seed: int) -> str:
    """The life of a seed; what was wrong with it, or nothing."""
    home = tempfile.mkdtemp(prefix="model-", dir=memory_folder())
    life = Life(seed, home)
    try:
        with seeded_scheduler(seed):
            trio.run(life.run, clock=trio.testing.MockClock(autojump_threshold=0))
    except (Exception, BaseExceptionGroup) as error:
        wrong = sole_error(error)
        return f"{type(wrong).__name__}: {wrong} after {' '.join(life.done[-12:])}"
    finally:
        shutil.rmtree(home)
    return ""


def main() -> int:
    """Play lives, tell of those that went wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.fire.sim_model", description=__doc__)
    parser.add_argument("--seeds", type=counted, default=200, help="how many lives")
    parser.add_argument("--from", type=int, default=0, dest="first", help="the first seed")
    options = parser.parse_args()
    began, bad = time.monotonic(), 0
    check = interrupted_between()
    for seed in range(options.first, options.first + options.seeds):
        check()
        if wrong := play(seed):
            bad += 1
            print(f"seed {seed}: {wrong}", flush=True)
    print(f"{options.seeds} lives in {time.monotonic() - began:.1f} s, {bad} bad")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(ended(main))
