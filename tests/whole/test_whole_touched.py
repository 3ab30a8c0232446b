"""A power cut, and finished files that their user changed: those are told of, and never taken for lost bytes."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import DownloadRequest, Durability, Engine, OfflineEntry, OfflineState, State, open_engine
from engine.files.filesystem import FileSystem
from engine.store.state_store import StateStore
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, claims, content, payload_of
from tests.support.origin import Origin, serve
from tests.support.run import assert_complete, run
from tests.whole.test_whole_reboot import NextBoot, spoil
from tests.whole.test_whole_recovery import never_clean

PAYLOAD = payload_of(9 * BIG_CHUNK + 11, seed=47)
TAGS = b"MY OWN TAGS"


def tagged(path: str) -> None:
    """A tagger writes into the file."""
    with open(path, "r+b") as file:
        file.seek(3 * CHUNK)
        file.write(TAGS)
    os.utime(path, ns=(1, 1))  # any other time stamp than that of the download


def tagged_quietly(path: str) -> None:
    """One that makes the file longer, and puts its time stamp back."""
    before = os.stat(path)
    data = content(path)
    with open(path, "wb") as file:
        file.write(TAGS + data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def tagged_anew(path: str) -> None:
    """One that writes another file, and gives it the name and the time stamp."""
    before = os.stat(path)
    Path(f"{path}.new").write_bytes(TAGS + content(path)[len(TAGS) :])
    os.rename(f"{path}.new", path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def finished_and_cut_off(library: Path, origin: Origin, patch: pytest.MonkeyPatch, how: Durability) -> str:
    """A finished file, in a session that did not end in order; its path."""
    with patch.context() as cut:
        never_clean(cut)
        done = await run(library, DownloadRequest(url=origin.url(), id="film", durability=how))
    assert done.offline is not None
    return done.offline.path


async def told(engine: Engine) -> tuple[list[str], OfflineState, OfflineEntry | None]:
    return (
        [found.what for found in engine.recovered],
        await engine.offline_state("film"),
        await engine.offline_entry("film"),
    )


@pytest.mark.parametrize("durability", list(Durability))
@pytest.mark.parametrize("touch", [tagged, tagged_anew])
async def test_a_finished_file_that_was_touched_is_left_after_a_power_cut(
    library: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability, touch: object
) -> None:
    assert callable(touch)
    async with serve(PAYLOAD) as origin:
        path = await finished_and_cut_off(library, origin, monkeypatch, durability)
        touch(path)
        mine = content(path)
        async with open_engine(library, config=SMALL, files=NextBoot()) as engine:
            what, _, offline = await told(engine)
            assert ["was changed since it was finished" in line for line in what] == [True]
            assert (await engine.get("film")).state is State.COMPLETED
            assert offline is not None
            [found] = await engine.validate_downloads()
            assert len(found.bad_ranges) == 1
        async with open_engine(library, config=SMALL, files=NextBoot()) as engine:
            assert engine.recovered == (), "it is told once"
        assert content(path) == mine
        assert claims(library)[0].part.chunks_done == claims(library)[0].grid.count


async def test_the_size_of_a_synced_file_tells_that_it_was_touched(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve(PAYLOAD) as origin:
        path = await finished_and_cut_off(library, origin, monkeypatch, Durability.STRICT)
        tagged_quietly(path)
        async with open_engine(library, config=SMALL, files=NextBoot()) as engine:
            what, state, _ = await told(engine)
            assert ["was changed since" in line for line in what] == [True]
            assert state is OfflineState.OFFLINED_BUT_NOT_VALID
        assert content(path) == TAGS + PAYLOAD


async def test_the_lost_tail_of_a_relaxed_file_is_no_touch(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its size was never synced: a power cut may take it."""
    async with serve(PAYLOAD) as origin:
        path = await finished_and_cut_off(library, origin, monkeypatch, Durability.RELAXED)
        before = os.stat(path)
        os.truncate(path, CHUNK)
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        request = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        assert_complete(await run(library, request, files=NextBoot()), PAYLOAD)


@pytest.mark.parametrize("durability", list(Durability))
async def test_what_a_finished_file_lost_is_fetched_again_all_the_same(
    library: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    async with serve(PAYLOAD) as origin:
        path = await finished_and_cut_off(library, origin, monkeypatch, durability)
        spoil(path, 3 * CHUNK)
        request = DownloadRequest(url=origin.url(), id="film", durability=durability)
        again = await run(library, request, files=NextBoot())
        assert_complete(again, PAYLOAD)
        assert again.recovered[0].startswith("1 chunks had not")


async def test_a_power_cut_does_not_look_behind_a_clean_end(library: Path) -> None:
    """Not even at a file whose change shows by nothing but its bytes."""
    async with serve(PAYLOAD) as origin:
        done = await run(library, DownloadRequest(url=origin.url(), id="film"))
    assert done.offline is not None
    spoil(done.offline.path, 3 * CHUNK)
    StateStore.open(str(library), SMALL, FileSystem(), now=1.0).close(clean=False)
    async with open_engine(library, config=SMALL, files=NextBoot()) as engine:
        assert engine.recovered == ()
        assert (await engine.get("film")).state is State.COMPLETED
