"""Records and sectors that cannot be read any more: asking again mends what hung on them, nothing else (L10, D7)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from engine import DownloadRequest, Durability, Health, State, open_engine
from engine.errors import TargetExists
from engine.store.codec import Table
from tests.store.helpers import spoil as spoil_records
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, claims, content, files_under, payload_of
from tests.support.origin import plain, serve
from tests.support.run import assert_complete, assert_failed, run
from tests.whole.test_whole_reboot import NextBoot, half

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=97)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("finished", [False, True])
async def test_l10_asking_for_a_damaged_entry_begins_a_new_one(library: Path, many: bool, finished: bool) -> None:
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        if finished:
            assert_complete(await run(library, request), PAYLOAD)
        else:
            origin.script = half
            assert_failed(await run(library, request), "not_found", 404)
            origin.script = plain
        assert spoil_records(str(library), Table.ENTRIES)
        async with open_engine(library, config=SMALL) as engine:
            (download,) = await engine.offline_many([request]) if many else [await engine.offline(request)]
            offline = await download.wait()
            again = await (await engine.offline(request)).wait()
            assert [entry.id for entry in await engine.list()] == ["film"]
    assert again == offline
    assert content(offline.path) == PAYLOAD
    assert {content(library / "files" / name) for name in files_under(library / "files")} == {PAYLOAD}


async def test_l10_a_damaged_offline_record_is_made_anew(library: Path) -> None:
    """The file is fetched again while it is what was downloaded; a user's edit is kept until overwriting is asked."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        done = await run(library, request)
        assert done.offline is not None
        assert spoil_records(str(library), Table.OFFLINE)
        assert_complete(await run(library, request), PAYLOAD)
        assert spoil_records(str(library), Table.OFFLINE)
        with open(done.offline.path, "r+b") as file:
            file.write(b"edit")
        with pytest.raises(TargetExists):
            await run(library, request)
        assert content(done.offline.path)[:4] == b"edit"
        overwriting = DownloadRequest(url=origin.url(), id="film", overwrite=True)
        assert_complete(await run(library, overwriting), PAYLOAD)
    assert files_under(library / "files") == {"film.bin"}


async def test_l10_a_part_whose_record_is_damaged_begins_with_a_generation_of_its_own(library: Path) -> None:
    """A commit of the old part that comes late, in the same epoch, must not be taken for one of the new part's."""
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        assert_failed(await run(library, request), "not_found", 404)
        old = claims(library)[0].part.generation
        assert spoil_records(str(library), Table.PARTS)
        origin.script = plain
        assert_complete(await run(library, request), PAYLOAD)
    assert claims(library)[0].part.generation > old + 1_000_000


async def test_l10_so_does_one_that_is_a_single_chunk_by_now_and_nothing_of_the_old_one_is_left(library: Path) -> None:
    small = payload_of(CHUNK // 2)
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        assert_failed(await run(library, request), "not_found", 404)
        old = claims(library)[0].part
        assert os.path.exists(os.path.join(old.folder, old.part_name))
        assert spoil_records(str(library), Table.PARTS)
        origin.script = plain
        origin.serve(small)
        assert_complete(await run(library, request), small)
    assert claims(library)[0].part.generation > old.generation + 1_000_000
    assert files_under(library / "files") == {"film.bin"}


class BadSectors(NextBoot):
    """Another boot, and a device that cannot read some of the bytes, or none."""

    def __init__(self, bad: range) -> None:
        self.bad = bad

    def read_at(self, fd: int, length: int, offset: int) -> bytes:
        if length > 4096 and offset < self.bad.stop and offset + length > self.bad.start:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return super().read_at(fd, length, offset)


async def test_d7_a_chunk_that_cannot_be_read_is_fetched_again(library: Path) -> None:
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        assert_failed(await run(library, request), "not_found", 404)
        (claim,) = claims(library)
        start, _ = claim.ranges[0]
        origin.script = plain
        bad = range(start + CHUNK + 5, start + CHUNK + 6)
        outcome = await run(library, request, files=BadSectors(bad))
    assert "1 chunks had not reached the disk; they are fetched again" in outcome.recovered
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == claim.held_bytes - CHUNK


async def test_d7_a_device_that_is_away_costs_nothing(library: Path) -> None:
    """Not one chunk can be read: the bits stay, and are looked at when it is back."""
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=Durability.RELAXED)
        assert_failed(await run(library, request), "not_found", 404)
        (claim,) = claims(library)
        async with open_engine(library, config=SMALL, files=BadSectors(range(1 << 40)), resume=False) as engine:
            assert ["could not be looked at" in found.what for found in engine.recovered] == [True]
        assert claims(library)[0].held_bytes == claim.held_bytes
        origin.script = plain
        outcome = await run(library, request, files=NextBoot())
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == claim.held_bytes


async def test_d7_verify_names_the_bytes_that_cannot_be_read(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="film")), PAYLOAD)
        bad = range(7 * CHUNK, 7 * CHUNK + 1)
        async with open_engine(library, config=SMALL, files=BadSectors(bad)) as engine:
            (found,) = await engine.validate_downloads()
            assert (await engine.get("film")).state is State.COMPLETED
    assert (found.health, found.bad_ranges) == (Health.CORRUPT, ((7 * CHUNK, 8 * CHUNK),))
