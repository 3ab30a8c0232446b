"""The user of a simulated day: asks for things, changes his mind, harms his own files, and does not always wait."""

from __future__ import annotations

import math
import os
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

import trio

from engine import DownloadRequest, Durability, Engine, GroupRequest, LinePolicy, State
from engine.errors import EngineError, InternalError, UnknownEntry
from engine.model.events import EngineEvent, Progress, Removed, StateChanged
from tests.fire.judge import Journal
from tests.fire.sim_disk import SimDisk
from tests.fire.sim_faults import Faults
from tests.fire.sim_origin import Media, Servers

HOSTS = ("a.example", "b.example")
GROUPS = {"album": "", "mix": "", "season": "s"}
SIZES = (0, 1, 700, 4096, 4097, 16_000, 40_000, 90_000, 150_000)


@dataclass(frozen=True)
class Wish:
    """An entry that the user may want: always of the same media, scope, place and durability."""

    id: str
    scope: str
    media: Media
    host: str
    mirrors: tuple[str, ...]
    destination: str | None
    durability: Durability

    def request(self, rng: random.Random) -> DownloadRequest:
        """Asking for it, in one of several ways."""
        return DownloadRequest(
            url=f"http://{self.host}/{self.media.name}",
            id=self.id,
            scope=self.scope,
            destination=self.destination,
            mirrors=self.mirrors,
            expect={"sha256": self.media.sha256} if self.media.fixed and not self.media.in_pieces else {},
            pieces=self.media.pieces,
            durability=self.durability,
            priority=rng.choice((0, 0, 5)),
            connections=rng.choice((None, None, 1, 3)),
            overwrite=rng.random() < 0.2,
            line=LinePolicy(allow_metered=rng.choice((None, None, False))),
        )


@dataclass
class Memory:
    """What the user was told, and what he cannot know. ``doubtful``: ids of which a change was begun whose end he did
    not see; ``harmed``: ``(id, generation)`` of finished files that he harmed."""

    journal: Journal = field(default_factory=Journal)
    doubtful: Counter[str] = field(default_factory=Counter)
    harmed: set[tuple[str, int]] = field(default_factory=set)

    def certain(self) -> Journal:
        """The journal, but for what is in doubt."""
        journal, doubtful = self.journal, {key for key, count in self.doubtful.items() if count > 0}
        return Journal(
            accepted=journal.accepted - doubtful,
            completed=journal.completed - doubtful,
            removed=journal.removed - doubtful,
            progress={key: told for key, told in journal.progress.items() if key not in doubtful},
        )

    def settled(self) -> None:
        """A new engine has finished or undone whatever was half-way; what came of it is seen from here on."""
        self.journal = self.certain()
        self.doubtful.clear()

    def begins_anew(self, entry_id: str) -> None:
        """The entry is about to get a new part: its source has other bytes than those of which was told."""
        self.journal.progress.pop(entry_id, None)

    def told(self, event: EngineEvent) -> None:
        """An event was emitted."""
        self.journal.told(event)
        if isinstance(event, StateChanged) and State.CANCELLED in {event.state, event.previous}:
            self.journal.progress.pop(event.id, None)  # its unfinished file goes


class User:
    """Acts on ``engine`` at random. ``note`` gets a line for everything he did."""

    def __init__(
        self, wishes: Iterable[Wish], servers: Servers, disk: SimDisk, faults: Faults, note: Callable[[str], None]
    ) -> None:
        self.wishes = {wish.id: wish for wish in wishes}
        self.memory = Memory()
        self._servers = servers
        self._disk = disk
        self._faults = faults
        self._rng = faults.rng
        self._note = note

    async def act_until_cancelled(self, engine: Engine) -> None:
        """One thing after another."""
        rng = self._rng
        names = list(ACTIONS)
        weights = [weight for weight, _ in ACTIONS.values()]
        while True:
            await trio.sleep(rng.choice((0.0, 0.01, 0.3, 2.0, 8.0)))
            [name] = rng.choices(names, weights)
            entry_id = rng.choice(list(self.wishes))
            patience = rng.choice((0.0, 0.001, 0.5)) if self._faults.hit("impatient") else math.inf
            outcome = "left"
            with trio.move_on_after(patience):
                outcome = await self._outcome(ACTIONS[name][1](self, engine, entry_id))
            self._note(f"{name} {entry_id}: {outcome}")

    async def _outcome(self, action: Awaitable[None]) -> str:
        try:
            await action
        except InternalError:
            raise
        except EngineError as error:
            return error.code
        return "done"

    async def _doubting(self, ids: Iterable[str], call: Awaitable[object]) -> None:
        """Make a change after which nothing that was told before need be true; it is certain again once it is made."""
        ids = set(ids)
        self.memory.doubtful.update(ids)
        await call
        if not self._disk.dead:
            self.memory.doubtful.subtract(ids)

    async def add(self, engine: Engine, entry_id: str) -> None:
        request = self.wishes[entry_id].request(self._rng)
        await self._doubting([entry_id], engine.offline(request))
        if not self._disk.dead:
            self.memory.journal.accepted.add(entry_id)
            self.memory.journal.removed.discard(entry_id)

    async def add_many(self, engine: Engine, _entry_id: str) -> None:
        ids = self._rng.sample(sorted(self.wishes), 3)
        await self._doubting(ids, engine.offline_many([self.wishes[one].request(self._rng) for one in ids]))

    async def pause(self, engine: Engine, entry_id: str) -> None:
        await engine.pause(entry_id)

    async def resume(self, engine: Engine, entry_id: str) -> None:
        await engine.resume(entry_id)

    async def cancel(self, engine: Engine, entry_id: str) -> None:
        await self._doubting([entry_id], engine.cancel(entry_id))

    async def retry(self, engine: Engine, entry_id: str) -> None:
        await engine.retry(entry_id)

    async def remove(self, engine: Engine, entry_id: str) -> None:
        await self._doubting([entry_id], engine.remove(entry_id))

    async def pause_all(self, engine: Engine, _entry_id: str) -> None:
        await engine.pause_all(self._rng.choice((None, "", "s")))

    async def resume_all(self, engine: Engine, _entry_id: str) -> None:
        await engine.resume_all()

    async def cancel_all(self, engine: Engine, _entry_id: str) -> None:
        await self._doubting(self.wishes, engine.cancel_all("s"))

    async def retry_failed(self, engine: Engine, _entry_id: str) -> None:
        await engine.retry_failed()

    async def remove_all(self, engine: Engine, _entry_id: str) -> None:
        await self._doubting(self.wishes, engine.remove_all(self._rng.choice((None, "s"))))

    async def reset(self, engine: Engine, _entry_id: str) -> None:
        await self._doubting(self.wishes, engine.reset("s"))

    async def prioritise(self, engine: Engine, entry_id: str) -> None:
        await engine.prioritise(entry_id, self._rng.randint(-3, 9), preempt=self._rng.random() < 0.5)

    async def add_group(self, engine: Engine, _entry_id: str) -> None:
        name = self._rng.choice(list(GROUPS))
        request = GroupRequest(id=name, scope=GROUPS[name], title=name, members=self._members(name))
        await self._doubting(self.wishes, engine.add_group(request))

    async def set_members(self, engine: Engine, _entry_id: str) -> None:
        name = self._rng.choice(list(GROUPS))
        await self._doubting(self.wishes, engine.set_group_members(name, self._members(name), scope=GROUPS[name]))

    async def remove_group(self, engine: Engine, _entry_id: str) -> None:
        name = self._rng.choice(list(GROUPS))
        await self._doubting(self.wishes, engine.remove_group(name, scope=GROUPS[name]))

    def _members(self, name: str) -> tuple[tuple[DownloadRequest, int, int], ...]:
        ids = [one.id for one in self.wishes.values() if one.scope == GROUPS[name]]
        chosen = self._rng.sample(ids, self._rng.randint(0, len(ids)))
        return tuple((self.wishes[one].request(self._rng), 1, at) for at, one in enumerate(chosen))

    async def look(self, engine: Engine, entry_id: str) -> None:
        await engine.explain(entry_id)
        await engine.get_download_health()
        for name, scope in GROUPS.items():
            try:
                await engine.group(name, scope=scope)
                await engine.group_members(name, scope=scope)
            except EngineError:
                continue  # it is not there

    async def limit_rate(self, engine: Engine, entry_id: str) -> None:
        engine.set_rate_limit(self._rng.choice((0, 0, 4096, 50_000)))
        await engine.set_entry_rate_limit(entry_id, self._rng.choice((0, 0, 2000, 50_000)))

    async def set_quota(self, engine: Engine, _entry_id: str) -> None:
        await engine.set_quota("s", self._rng.choice((None, 0, 1, 50_000)))

    async def set_policy(self, engine: Engine, _entry_id: str) -> None:
        await engine.set_line_policy(LinePolicy(allow_metered=self._rng.choice((None, True, False))))

    async def rot(self, engine: Engine, entry_id: str) -> None:
        """A finished file loses some bytes; often it is looked at then."""
        offline = await engine.offline_entry(entry_id)
        if (await engine.get(entry_id)).state is State.COMPLETED and offline is not None and offline.size:
            parts = await engine.parts(entry_id)
            if not os.path.exists(offline.path):
                return
            self.memory.harmed.update((entry_id, part.generation) for part in parts)
            start = self._rng.randrange(offline.size)
            self._disk.rot(offline.path, start, b"\0\xff rot"[: offline.size - start])
        if self._rng.random() < 0.7:
            await self.repair(engine, entry_id)

    async def repair(self, engine: Engine, entry_id: str) -> None:
        await self._doubting([entry_id], engine.repair(entry_id))

    async def validate(self, engine: Engine, _entry_id: str) -> None:
        await engine.validate_downloads()

    async def clean_up(self, engine: Engine, _entry_id: str) -> None:
        await engine.gc(everywhere=self._rng.random() < 0.5)

    async def reconcile(self, engine: Engine, _entry_id: str) -> None:
        await engine.reconcile()

    async def change_source(self, _engine: Engine, entry_id: str) -> None:
        self._servers.change(self.wishes[entry_id].media)

    async def have_all(self, engine: Engine) -> list[str]:
        """The day is good: everything is asked for, and what stands in its way is lifted. Returns what did not end."""
        engine.set_rate_limit(0)
        await engine.set_line_policy(LinePolicy())
        await engine.set_quota("s", None)
        await engine.resume_all()
        for wish in self.wishes.values():
            await engine.offline(wish.request(random.Random(0)))
            await engine.set_entry_rate_limit(wish.id, 0)
        await engine.validate_downloads(repair=True)
        left: list[str] = []
        for _ in range(12):
            left = []
            for entry_id, wish in self.wishes.items():
                with trio.move_on_after(900):
                    try:
                        await engine.wait(entry_id)
                        continue
                    except UnknownEntry:
                        raise
                    except EngineError as error:
                        self._note(f"{entry_id} did not end well: {error.code}")
                        await engine.offline(wish.request(random.Random(0)))
                entry = await engine.get(entry_id)
                why = entry.last_error.message if entry.last_error else ""
                left.append(f"{entry_id} is {entry.state} ({entry.state_reason}) {why}")
            if not left:
                break
        return left

    def describe(self, event: EngineEvent) -> str:
        """One line for the trace."""
        if isinstance(event, StateChanged):
            return f"{event.id} {event.state} {event.reason} {event.error.code if event.error else ''}"
        if isinstance(event, Progress):
            return f"{event.id} has {event.bytes_done} {event.bytes_received}"
        if isinstance(event, Removed):
            return f"{event.id} is removed"
        return type(event).__name__


Action = Callable[[User, Engine, str], Awaitable[None]]
ACTIONS: dict[str, tuple[int, Action]] = {
    "add": (24, User.add),
    "add_many": (4, User.add_many),
    "pause": (6, User.pause),
    "resume": (8, User.resume),
    "cancel": (4, User.cancel),
    "retry": (6, User.retry),
    "remove": (4, User.remove),
    "pause_all": (1, User.pause_all),
    "resume_all": (3, User.resume_all),
    "cancel_all": (1, User.cancel_all),
    "retry_failed": (3, User.retry_failed),
    "remove_all": (1, User.remove_all),
    "reset": (1, User.reset),
    "prioritise": (3, User.prioritise),
    "add_group": (5, User.add_group),
    "set_members": (3, User.set_members),
    "remove_group": (2, User.remove_group),
    "look": (2, User.look),
    "limit_rate": (2, User.limit_rate),
    "set_quota": (1, User.set_quota),
    "set_policy": (1, User.set_policy),
    "rot": (4, User.rot),
    "repair": (2, User.repair),
    "validate": (1, User.validate),
    "clean_up": (2, User.clean_up),
    "reconcile": (2, User.reconcile),
    "change_source": (2, User.change_source),
}
