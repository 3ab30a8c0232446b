"""What the engine does while its disk is watched, and what it says of it. Each scenario is one run of a process."""

from __future__ import annotations

import ctypes
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import trio
import trio.testing

from engine import (
    Download,
    DownloadRequest,
    Durability,
    Engine,
    IllegalTransition,
    Progress,
    Removed,
    State,
    StateChanged,
    open_engine,
)
from engine.config import KIB
from engine.control.hub import Subscription
from engine.files.filesystem import FileSystem
from engine.model.lines import Line
from engine.network.monitor import StaticMonitor
from engine.store.state_store import StateStore
from tests.fire.power_origin import tell
from tests.fire.power_world import CONFIG, Journal, request_of
from tests.support.grouping import album
from tests.support.library import hash_of
from tests.support.upkeep import spoil

FILM: Final = 500 * KIB + 77
SMALL_FILE: Final = 9 * KIB + 5
RELAXED: Final = Durability.RELAXED
RUNNING: Final = {State.PENDING, State.IN_PROGRESS}


@dataclass
class Stage:
    """One run. ``seed`` makes its files other ones than those of another run."""

    root: Path
    base: str
    journal: Journal
    files: FileSystem
    seed: int

    @asynccontextmanager
    async def engine(self) -> AsyncIterator[Engine]:
        """An open engine; what it tells goes into the journal as soon as it is told."""
        monitor = StaticMonitor(Line(connected=True))
        opened = open_engine(self.root, config=CONFIG, files=self.files, seed=1, network=monitor)
        async with opened as engine, trio.open_nursery() as nursery:
            nursery.start_soon(self._listen, engine, engine.events())
            yield engine
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()

    async def _listen(self, engine: Engine, events: Subscription) -> None:
        async for event in events:
            if isinstance(event, StateChanged):
                self.journal.ack("state", id=event.id, state=event.state.value, epoch=event.epoch)
            elif isinstance(event, Progress):
                for part in await engine.parts(event.id):
                    self.journal.ack(
                        "progress", id=event.id, epoch=event.epoch, generation=part.generation,
                        bytes_done=event.bytes_done,
                    )  # fmt: skip
            elif isinstance(event, Removed):
                self.journal.ack("gone", id=event.id)

    def begin(self, *rotten: str) -> None:
        """All that was done so far is on the disk; from here on every moment is judged."""
        fd = os.open(self.root.parent, os.O_RDONLY)
        try:
            assert ctypes.CDLL(None).syncfs(fd) == 0
        finally:
            os.close(fd)
        self.journal.ack("begin", names=rotten)

    def whole(self, path: Path) -> None:
        """From now on the file is there at any time: as it is, or as an entry's."""
        self.journal.ack("whole", names=(str(path), hash_of(path.read_bytes())))

    def request(self, name: str, size: int, **fields: object) -> DownloadRequest:
        """A request for a file of this run."""
        return request_of(self.base, name, size, self.seed, **fields)

    async def ask(self, engine: Engine, *requests: DownloadRequest) -> list[Download]:
        """Ask for them all at once."""
        asked = await engine.offline_many(requests)
        for request in requests:
            entry = await engine.get(str(request.id))
            self.journal.ack("state", id=entry.id, state=entry.state.value, epoch=entry.epoch)
        return asked

    async def fetch(self, engine: Engine, *requests: DownloadRequest) -> list[str]:
        """Ask for them, wait for their ends; the paths of the files."""
        return [(await download.wait()).path for download in await self.ask(engine, *requests)]

    async def flip(self, request: DownloadRequest) -> None:
        """The origin has other bytes for this from now on."""
        await trio.to_thread.run_sync(tell, self.base, "flip/" + request.url.rpartition("/")[2])

    async def until(self, engine: Engine, name: str, count: int) -> None:
        """Wait until so many bytes of the entry are durable, or it came to its end."""
        with engine.events(name) as events:
            while (await engine.get(name)).state in RUNNING:
                if sum(part.bytes_done for part in await engine.parts(name)) >= count:
                    return
                await anext(events)


async def chunks(stage: Stage) -> None:
    """Two files of many chunks at once: sealing, group commits, publishing."""
    async with stage.engine() as engine:
        stage.begin()
        await stage.fetch(engine, stage.request("film", FILM), stage.request("other", FILM // 2))


async def many(stage: Stage) -> None:
    """Sixteen small files at once: the short way, shared transactions, folder lanes."""
    async with stage.engine() as engine:
        stage.begin()
        small = [stage.request(f"track-{number}", SMALL_FILE + number) for number in range(16)]
        await stage.fetch(engine, *small)


async def relaxed(stage: Stage) -> None:
    """Large and small files whose data nobody syncs, also after an end in order."""
    small = [stage.request(f"track-{number}", SMALL_FILE + number, durability=RELAXED) for number in range(4)]
    async with stage.engine() as engine:
        stage.begin()
        await stage.fetch(engine, stage.request("film", FILM, durability=RELAXED), *small[:2])
    async with stage.engine() as engine:
        await stage.fetch(engine, *small[2:])


async def overwrite(stage: Stage) -> None:
    """A large and a small file in the place of files that were there: at any time the old or the new one."""
    folder = stage.root.parent / "music"
    folder.mkdir()
    large, little = folder / "film.bin", folder / "track.bin"
    for path in (large, little):
        path.write_bytes(b"what was there before " * 1000)
    async with stage.engine() as engine:
        stage.begin()
        stage.whole(large)
        stage.whole(little)
        await stage.fetch(
            engine,
            stage.request("film", FILM, destination=str(large), overwrite=True),
            stage.request("track", SMALL_FILE, destination=str(little), overwrite=True),
        )


async def repair(stage: Stage) -> None:
    """A finished file of which chunks rotted: a copy, a new generation, the old file's place."""
    async with stage.engine() as engine:
        [path] = await stage.fetch(engine, stage.request("film", FILM // 2))
    spoil(path, [20_000, 120_000])
    async with stage.engine() as engine:
        stage.begin("film")
        stage.whole(Path(path))
        await engine.repair("film")
        await engine.wait("film")


async def changed(stage: Stage) -> None:
    """The source has other bytes half-way: a new generation beside the old one, which goes at the end."""
    async with stage.engine() as engine:
        stage.begin()
        request = stage.request("film", FILM)
        [download] = await stage.ask(engine, request)
        await stage.until(engine, "film", FILM // 4)
        await stage.flip(request)
        await download.wait()


async def removal(stage: Stage) -> None:
    """Finished and unfinished entries removed and cancelled, one asked for again."""
    small = [stage.request(f"track-{number}", SMALL_FILE + number) for number in range(4)]
    film = stage.request("film", FILM)
    async with stage.engine() as engine:
        await stage.fetch(engine, *small)
        await stage.ask(engine, film, stage.request("other", FILM))
        await stage.until(engine, "film", FILM // 4)
        await stage.until(engine, "other", FILM // 4)
        for name in ("film", "other"):
            with suppress(IllegalTransition):  # it was faster
                await engine.pause(name)
        stage.begin()
        await engine.remove("track-0")
        with suppress(IllegalTransition):
            await engine.cancel("other")
        async with trio.open_nursery() as nursery:
            for name in ("track-1", "track-2", "film"):
                nursery.start_soon(engine.remove, name)
        await stage.fetch(engine, small[1], film)
        await engine.remove_all()


async def verbs(stage: Stage) -> None:
    """Pauses, resumptions and a cancellation in the middle of files."""
    async with stage.engine() as engine:
        stage.begin()
        await stage.ask(engine, stage.request("film", FILM), stage.request("other", FILM))
        await stage.until(engine, "film", FILM // 4)
        with suppress(IllegalTransition):  # it was faster
            await engine.pause("film")
        await engine.prioritise("other", 5)
        await stage.until(engine, "other", FILM // 2)
        with suppress(IllegalTransition):
            await engine.resume("film")
        with suppress(IllegalTransition):
            await engine.cancel("other")
        await engine.wait("film")


async def creation(stage: Stage) -> None:
    """A library from nothing, one small file, an end in order, and the next opening."""
    stage.begin()
    async with stage.engine() as engine:
        await stage.fetch(engine, stage.request("first", SMALL_FILE))
    async with stage.engine() as engine:
        await stage.fetch(engine, stage.request("second", SMALL_FILE))


async def groups(stage: Stage) -> None:
    """Two albums that share tracks; one goes, then the account is emptied."""
    names = [f"{SMALL_FILE + number}-{stage.seed}-track-{number}.bin" for number in range(5)]
    async with stage.engine() as engine:
        stage.begin()
        await engine.add_group(album(stage.base, names[:4], "g", scope="alice"))
        stage.journal.ack("group", id="g", names=tuple(names[:4]))
        await engine.add_group(album(stage.base, names[2:], "h", scope="alice"))
        stage.journal.ack("group", id="h", names=tuple(names[2:]))
        for name in names:
            await engine.wait(name)
        stage.journal.ack("leaving", id="g")
        await engine.remove_group("g", scope="alice")
        stage.journal.ack("no_group", id="g")
        stage.journal.ack("leaving", id="h")
        await engine.reset("alice")
        stage.journal.ack("no_group", id="h")


async def _half_way(stage: Stage) -> None:
    """Ends without a word in the middle of a strict and a relaxed file."""
    async with stage.engine() as engine:
        await stage.ask(engine, stage.request("film", FILM), stage.request("other", FILM, durability=RELAXED))
        for name in ("film", "other"):
            await stage.until(engine, name, FILM // 4)
        os._exit(0)


async def recovery(stage: Stage) -> None:
    """The start after that, under another boot, with chunks of the relaxed file lost; then both to their ends."""
    store = StateStore.open_readonly(str(stage.root), CONFIG, stage.files)
    try:
        [part] = store.parts("other")
    finally:
        store.close(clean=False)
    paths = [os.path.join(part.folder, name) for name in (part.part_name, part.final_name) if name]
    with open(next(path for path in paths if os.path.exists(path)), "r+b") as file:
        file.write(bytes(3 * part.chunk_bytes))
    stage.begin()
    async with stage.engine() as engine:
        assert any("had not reached the disk" in event.what for event in engine.recovered)
        for name in ("film", "other"):
            await engine.wait(name)


Act = Callable[[Stage], Awaitable[None]]
# Each act has a process and a boot of its own; the last one is what is judged.
SCENARIOS: Final[dict[str, tuple[Act, ...]]] = {
    play.__name__: (play,)
    for play in (chunks, many, relaxed, overwrite, repair, changed, removal, verbs, creation, groups)
} | {"recovery": (_half_way, recovery)}
