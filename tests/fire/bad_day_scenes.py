"""What an engine is doing on the bad day: each scene has a library as it was before, the work, and how it must end."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

import trio

from engine import (
    DownloadFailed,
    DownloadRequest,
    Engine,
    State,
    UnknownEntry,
)
from engine.files.filesystem import FileSystem
from engine.model.commands import Command, Verb
from engine.store.guest import open_guest
from tests.fire.bad_day_faults import Numbering
from tests.fire.bad_day_world import RUN_S, Prepare, Work, World, bad_day
from tests.fire.judge import Journal
from tests.support.grouping import album
from tests.support.library import CHUNK, payload_of
from tests.support.origin import Asked, End, Reply, plain
from tests.support.upkeep import spoil

MANY: Final = payload_of(5 * CHUNK + 9, seed=81)
OLDER: Final = payload_of(4 * CHUNK + 77, seed=82)
SOLE: Final = payload_of(CHUNK - 100, seed=83)
MINE: Final = b"the user's own file"
PATIENCE_S: Final = 0.4  # for work that, on a bad day that lasts, never ends
ENDED: Final = frozenset({State.COMPLETED, State.FAILED, State.CANCELLED})


@dataclass(frozen=True, kw_only=True)
class Scene:
    """``prepare`` makes the library as it was; ``work`` is done on the bad day, and afterwards by a user who asks once
    more. ``files``: what must be there in the end, by paths below the root's folder. ``harmed``: see the judge.
    ``again``: what a user does then in place of the work; ``epochs``: of entries in the end when the process died.
    ``reboot``: between both, the machine was off.
    ``before``: the bytes of a file that must be the old or the new one at every moment."""

    name: str
    prepare: Prepare
    work: Work
    files: Mapping[str, bytes]
    truths: Mapping[str, tuple[bytes, ...]]
    harmed: Collection[tuple[str, int]] = ()
    before: Mapping[str, bytes] | None = None
    gone: Collection[str] = ()
    again: Work | None = None
    reboot: bool = False
    epochs: Mapping[str, int] = field(default_factory=dict)


async def rest(engine: Engine) -> None:
    """Until nothing waits or runs by itself any more; bounded."""
    with trio.fail_after(15):
        while any(entry.state not in ENDED for entry in await engine.list()):  # noqa: ASYNC110  # any of the ways
            await trio.sleep(0.002)


async def _nothing(world: World) -> None:
    """The root is not even there."""


def _request(world: World, entry_id: str = "film", **fields: Any) -> DownloadRequest:
    return DownloadRequest(url=world.origin.url(f"{entry_id}.bin"), id=entry_id, connections=2, **fields)


def _died(kind: str, count: int = 1, **fields: Any) -> Prepare:
    """A download whose process died before the ``count``-th call of that kind."""

    async def prepare(world: World) -> None:
        numbering = Numbering(at=count, which=-1, only=kind)
        await bad_day(world, numbering, Journal(), _download(**fields))
        assert numbering.dead

    return prepare


async def _ask(engine: Engine, journal: Journal, request: DownloadRequest, patience_s: float = PATIENCE_S) -> None:
    """Ask, and wait for the end as long as there may be one. ``offline`` that returned has accepted the entry."""
    assert request.id is not None
    await engine.offline(request)
    journal.accepted.add(request.id)
    journal.removed.discard(request.id)
    with trio.move_on_after(patience_s), suppress(DownloadFailed):
        await engine.wait(request.id)


def _download(**fields: Any) -> Work:
    async def work(world: World, engine: Engine, journal: Journal) -> None:
        await _ask(engine, journal, _request(world, **fields))

    return work


async def _half(world: World, **fields: Any) -> None:
    """An entry that failed with some of its chunks."""
    world.origin.script = lambda asked: plain(asked) if asked.number <= 2 else Reply(status=404)
    world.origin.forget()
    async with world.open() as engine:
        await _ask(engine, Journal(), _request(world, **fields), RUN_S)
        assert (await engine.get("film")).state is State.FAILED
    world.origin.script = plain


async def _half_of_the_older(world: World) -> None:
    world.origin.serve(OLDER)
    await _half(world)
    world.origin.serve(MANY)


async def _foreign_file(world: World) -> None:
    world.own.mkdir()
    (world.own / "mine.bin").write_bytes(MINE)


async def _replace(world: World, engine: Engine, journal: Journal) -> None:
    await _ask(engine, journal, _request(world, destination=str(world.own / "mine.bin"), overwrite=True))


async def _rotten(world: World) -> None:
    async with world.open() as engine:
        await engine.offline(_request(world))
        path = (await engine.wait("film")).path
    spoil(path, [CHUNK + 5, 4 * CHUNK])


async def _repair(world: World, engine: Engine, journal: Journal) -> None:
    await engine.repair("film")
    with trio.move_on_after(PATIENCE_S), suppress(DownloadFailed):
        await engine.wait("film")


async def _repair_again(world: World, engine: Engine, journal: Journal) -> None:
    """Also when it failed, and was not yet begun anew."""
    await engine.retry_failed()
    await rest(engine)
    await _repair(world, engine, journal)


async def _one_done_one_half(world: World) -> None:
    async with world.open() as engine:
        await engine.offline(_request(world, "done"))
        await engine.wait("done")
    await _half(world)


async def _remove(world: World, engine: Engine, journal: Journal) -> None:
    for entry_id in ("done", "film"):
        with suppress(UnknownEntry):
            await engine.remove(entry_id)
            journal.removed.add(entry_id)


async def _albums(world: World) -> None:
    """An album of a, b and c; b is in another one too."""
    async with world.open() as engine:
        await engine.add_group(album(world.origin.base, "abc"))
        await engine.add_group(album(world.origin.base, "b", "h"))
        for name in "abc":
            await engine.wait(name)


async def _remove_album(world: World, engine: Engine, journal: Journal) -> None:
    journal.removed |= set((await engine.remove_group("g")).removed)


async def _commands(world: World) -> None:
    """Commands of another process wait for the engine: go on with what failed, remove what is done."""
    await _one_done_one_half(world)
    left = [Command(verb=Verb.RETRY, token="1", id="film"), Command(verb=Verb.REMOVE, token="2", id="done")]
    with open_guest(str(world.root), FileSystem()) as guest:
        guest.append(left, 10)


async def _carry_out(world: World, engine: Engine, journal: Journal) -> None:
    """Nobody asks for anything: the commands do."""
    with trio.move_on_after(PATIENCE_S):
        while True:
            left = {entry.id: entry for entry in await engine.list()}
            if left.keys() == {"film"} and left["film"].state is State.COMPLETED:
                break
            await trio.sleep(0.002)


async def _retry(world: World, engine: Engine, journal: Journal) -> None:
    """What was asked for and refused."""
    await engine.retry_failed()
    with suppress(UnknownEntry):
        await engine.remove("done")
    await _carry_out(world, engine, journal)


async def _small_files(world: World, engine: Engine, journal: Journal) -> None:
    requests = [_request(world, name) for name in "uvwxyz"]
    await engine.offline_many(requests)
    journal.accepted |= set("uvwxyz")
    with trio.move_on_after(PATIENCE_S):
        for name in "uvwxyz":
            with suppress(DownloadFailed):
                await engine.wait(name)


def _chunked(asked: Asked) -> Reply:
    return Reply(framing="chunked", ranges=False, end=End.CLOSE)


async def _of_unknown_length(world: World) -> None:
    """Besides, a store that was never finished lies there."""
    (world.root / "store.tmp-left").mkdir(parents=True)
    (world.root / "store.tmp-left" / "data.mdb").write_bytes(b"")
    world.origin.script = _chunked


async def _of_one_chunk(world: World) -> None:
    world.origin.serve(SOLE)


async def _albums_of_one_chunk(world: World) -> None:
    world.origin.serve(SOLE)
    await _albums(world)


_FILM = {"library/files/film.bin": MANY}
_NEW = {"": (MANY,)}

SCENES: Final = (
    Scene(name="strict", prepare=_nothing, work=_download(), files=_FILM, truths=_NEW),
    Scene(name="relaxed", prepare=_nothing, work=_download(durability="relaxed"), files=_FILM, truths=_NEW),
    Scene(
        name="one-chunk",
        prepare=_of_one_chunk,
        work=_download(),
        files={"library/files/film.bin": SOLE},
        truths={"": (SOLE,)},
    ),
    Scene(
        name="small-files",
        prepare=_of_one_chunk,
        work=_small_files,
        files={f"library/files/{name}.bin": SOLE for name in "uvwxyz"},
        truths={"": (SOLE,)},
    ),
    Scene(name="unknown-length", prepare=_of_unknown_length, work=_download(), files=_FILM, truths=_NEW),
    Scene(name="resume", prepare=_half, work=_download(), files=_FILM, truths=_NEW),
    Scene(name="new-version", prepare=_half_of_the_older, work=_download(), files=_FILM, truths={"": (OLDER, MANY)}),
    Scene(
        name="overwrite",
        prepare=_foreign_file,
        work=_replace,
        files={"own/mine.bin": MANY},
        truths=_NEW,
        before={"own/mine.bin": MINE},
    ),
    Scene(
        name="repair",
        prepare=_rotten,
        work=_repair,
        files=_FILM,
        truths=_NEW,
        harmed=(("film", 1),),
        again=_repair_again,
    ),
    Scene(name="remove", prepare=_one_done_one_half, work=_remove, files={}, truths=_NEW, gone=("done", "film")),
    Scene(
        name="remove-group",
        prepare=_albums_of_one_chunk,
        work=_remove_album,
        files={"library/files/b": SOLE},
        truths={"": (SOLE,)},
        gone=("a", "c"),
    ),
    Scene(
        name="inbox",
        prepare=_commands,
        work=_carry_out,
        files=_FILM,
        truths=_NEW,
        gone=("done",),
        again=_retry,
        epochs={"film": 2},
    ),
)
BY_NAME: Final = {scene.name: scene for scene in SCENES}
