"""Repair: only bad chunks are fetched again, into a copy; the old file stays readable until the new one is there."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest
import trio

from engine import (
    DownloadFailed,
    DownloadRequest,
    Engine,
    EngineClosed,
    Health,
    OfflineEntry,
    State,
    UnknownEntry,
    open_engine,
)
from engine.control.verify import Repair, Validation
from engine.files.filesystem import FileSystem
from tests.support.library import CHUNK, SMALL, content, files_under, hash_of, parts_under, payload_of
from tests.support.origin import Asked, Origin, Reply, serve
from tests.support.upkeep import spoil, upkeep_of

PAYLOAD = payload_of(100 * CHUNK + 11, seed=71)
OTHER = payload_of(100 * CHUNK + 11, seed=72)


async def offlined(engine: Engine, origin: Origin, **fields: object) -> OfflineEntry:
    """Download the origin's payload as ``film``, and count anew from here."""
    request = DownloadRequest(url=origin.url(), id="film", **fields)  # type: ignore[arg-type]
    done = await (await engine.offline(request)).wait()
    origin.forget()
    return done


async def repaired(engine: Engine) -> Validation:
    """Repair ``film`` and wait until it is complete again."""
    found = await upkeep_of(engine).repairs.repair("film")
    await engine.wait("film")
    return found


def asked_bytes(origin: Origin) -> set[tuple[int | None, int | None]]:
    """The ranges that were asked for."""
    return {(asked.start, asked.end) for asked in origin.asked}


async def test_only_bad_chunks_are_fetched_again(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [3 * CHUNK, 4 * CHUNK + 7, 50 * CHUNK + 1, len(PAYLOAD) - 1])
        found = await repaired(engine)
        assert (found.health, found.repair) == (Health.CORRUPT, Repair.CHUNKS)
        assert origin.sent == 3 * CHUNK + 11
        assert asked_bytes(origin) == {
            (3 * CHUNK, 5 * CHUNK),
            (50 * CHUNK, 51 * CHUNK),
            (100 * CHUNK, len(PAYLOAD)),
        }
        again = await engine.offline_entry("film")
        assert again is not None
        assert (again.path, again.blake3) == (done.path, hash_of(PAYLOAD))
        assert content(done.path) == PAYLOAD
        assert parts_under(library / "files") == set()
        [valid] = await engine.validate_downloads()
        assert valid.health is Health.VALID
        assert (await engine.get("film")).attempts[-1].bytes_fetched == 3 * CHUNK + 11


async def test_a_valid_file_is_left_alone(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        inode = os.stat(done.path).st_ino
        found = await upkeep_of(engine).repairs.repair("film")
        assert (found.health, found.repair) == (Health.VALID, Repair.NONE)
        assert origin.asked == []
        assert os.stat(done.path).st_ino == inode
        assert (await engine.get("film")).state is State.COMPLETED


async def test_the_old_file_stays_readable_until_the_new_one_is_there(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, range(0, 40 * CHUNK, CHUNK))
        spoiled = content(done.path)
        origin.rate = 400_000.0
        with open(done.path, "rb") as reader:
            await upkeep_of(engine).repairs.repair("film")
            await origin.until_sent(5 * CHUNK)
            assert (await engine.get("film")).state is State.IN_PROGRESS
            assert content(done.path) == spoiled
            assert (await engine.offline_entry("film")) == done
            await engine.wait("film")
            assert reader.read() == spoiled
        assert content(done.path) == PAYLOAD


@pytest.mark.parametrize(("change", "fetched"), [(-5 * CHUNK, 5 * CHUNK), (CHUNK, 0)])
async def test_a_file_that_was_cut_or_grew(library: Path, change: int, fetched: int) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        os.truncate(done.path, len(PAYLOAD) + change)
        found = await repaired(engine)
        assert found.repair is Repair.CHUNKS
        assert abs(origin.sent - fetched) <= CHUNK
        assert content(done.path) == PAYLOAD


@pytest.mark.parametrize("destination", [False, True])
async def test_a_file_that_is_gone_is_fetched_again(library: Path, tmp_path: Path, destination: bool) -> None:
    where = str(tmp_path / "film.bin") if destination else None
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin, destination=where)
        os.unlink(done.path)
        found = await repaired(engine)
        assert (found.health, found.repair) == (Health.MISSING, Repair.WHOLE)
        assert origin.sent == len(PAYLOAD)
        assert content(done.path) == PAYLOAD


async def test_a_source_that_has_other_bytes_by_now_is_fetched_whole(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [10 * CHUNK])
        origin.serve(OTHER)
        await repaired(engine)
        assert content(done.path) == OTHER
        assert files_under(library / "files") == {os.path.basename(done.path)}


async def test_a_source_that_lies_about_being_the_same_mixes_nothing(library: Path) -> None:
    """Law 3: the same ETag with other bytes in the chunk that is fetched again."""

    def script(asked: Asked) -> Reply:
        return Reply(body=OTHER) if lying and asked.start == 10 * CHUNK else Reply()

    lying = False
    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [10 * CHUNK])
        lying = True
        await repaired(engine)
        found = content(done.path)
        assert hash_of(found) == hash_of(PAYLOAD)


async def test_a_file_that_somebody_put_in_its_place_stays(library: Path, tmp_path: Path) -> None:
    where = tmp_path / "film.bin"
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await offlined(engine, origin, destination=str(where))
        os.unlink(where)
        where.write_bytes(OTHER)
        found = await upkeep_of(engine).repairs.repair("film")
        assert (found.health, found.repair) == (Health.CORRUPT, Repair.REFUSED)
        assert "another file" in found.message
        assert where.read_bytes() == OTHER
        assert origin.asked == []
        assert (await engine.get("film")).state is State.COMPLETED


async def test_a_copy_of_its_file_from_elsewhere_is_mended(library: Path, tmp_path: Path) -> None:
    """Restored from a backup: another inode, but bytes of its own."""
    where = tmp_path / "film.bin"
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await offlined(engine, origin, destination=str(where))
        data = where.read_bytes()
        os.rename(where, tmp_path / "elsewhere")
        where.write_bytes(data)
        spoil(where, [7 * CHUNK])
        assert (await repaired(engine)).repair is Repair.CHUNKS
        assert origin.sent == CHUNK
        assert where.read_bytes() == PAYLOAD


async def test_a_folder_that_is_gone_is_not_made_again(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await offlined(engine, origin, destination=f"{folder}/")
        os.rename(folder, tmp_path / "unmounted")
        found = await upkeep_of(engine).repairs.repair("film")
        assert (found.health, found.repair) == (Health.MISSING, Repair.REFUSED)
        assert not folder.exists()


async def test_credentials_that_are_gone_are_told(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            done = await offlined(engine, origin, headers=(("Authorization", "Bearer x"),))
            spoil(done.path, [0])
        async with open_engine(library, config=SMALL) as engine:
            found = await upkeep_of(engine).repairs.repair("film")
            assert found.repair is Repair.REFUSED
            assert "authorization" in found.message
            assert origin.asked == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
async def test_a_copy_that_cannot_be_made_changes_nothing(library: Path, number: int) -> None:
    files = FileSystem()
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL, files=files) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [0])
        before = content(done.path)

        def refuse(*args: int) -> int:
            raise OSError(number, os.strerror(number))

        files.copy_range = refuse  # type: ignore[method-assign,assignment]
        found = await upkeep_of(engine).repairs.repair("film")
        assert found.repair is Repair.REFUSED
        assert content(done.path) == before
        assert parts_under(library / "files") == set()
        assert (await engine.get("film")).state is State.COMPLETED
        del files.copy_range
        assert (await repaired(engine)).repair is Repair.CHUNKS
        assert origin.sent == CHUNK


async def test_a_copy_that_comes_out_wrong_is_not_believed(library: Path) -> None:
    """Law 1: chunks are hashed on the copy, not taken over from the original."""
    files = FileSystem()
    real = files.copy_range

    def spoiling(source: int, target: int, offset: int, length: int) -> int:
        copied = real(source, target, offset, length)
        if offset <= 20 * CHUNK < offset + length:
            os.pwrite(target, b"rotten", 20 * CHUNK)
        return copied

    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL, files=files) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [0])
        files.copy_range = spoiling  # type: ignore[method-assign,assignment]
        await repaired(engine)
        assert asked_bytes(origin) == {(0, CHUNK), (20 * CHUNK, 21 * CHUNK)}
        assert content(done.path) == PAYLOAD


async def test_a_repair_that_was_cut_off_goes_on_at_the_next_start(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            done = await offlined(engine, origin)
            spoil(done.path, range(0, 40 * CHUNK, CHUNK))
            origin.rate = 400_000.0
            await upkeep_of(engine).repairs.repair("film")
            await origin.until_sent(20 * CHUNK)
        origin.rate = None
        origin.forget()
        async with open_engine(library, config=SMALL) as engine:
            await engine.wait("film")
            assert origin.sent < 40 * CHUNK
            assert content(done.path) == PAYLOAD


async def test_a_repair_whose_source_is_gone_keeps_the_old_file(library: Path) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(status=404) if gone else Reply()

    gone = False
    async with serve(PAYLOAD, script) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [0])
        before = content(done.path)
        gone = True
        await upkeep_of(engine).repairs.repair("film")
        with pytest.raises(DownloadFailed):
            await engine.wait("film")
        assert content(done.path) == before
        gone = False
        origin.forget()
        await (await engine.offline(DownloadRequest(url=origin.url(), id="film"))).wait()
        assert origin.sent == CHUNK
        assert content(done.path) == PAYLOAD


async def test_only_what_is_complete_and_known_is_repaired(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        repairs = upkeep_of(engine).repairs
        with pytest.raises(UnknownEntry):
            await repairs.repair("film")
        origin.rate = 100_000.0
        await engine.offline(DownloadRequest(url=origin.url(), id="film"))
        await origin.until_asked(1)
        found = await repairs.repair("film")
        assert (found.health, found.repair) == (Health.INCOMPLETE, Repair.NONE)
    with pytest.raises(EngineClosed):
        await repairs.repair("film")


async def test_what_the_host_noted_of_a_file_outlives_its_repair(library: Path) -> None:
    sha256 = hashlib.sha256(PAYLOAD).hexdigest()
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin, expect={"sha256": sha256})
        await upkeep_of(engine).expire("film", 1e12)
        await upkeep_of(engine).pin("film")
        spoil(done.path, [0])
        await repaired(engine)
        again = await engine.offline_entry("film")
        assert again is not None
        assert (again.expires_at, again.digests) == (1e12, {"sha256": sha256})
        assert (await engine.get("film")).pinned
        origin.serve(OTHER)
        os.unlink(done.path)
        request = DownloadRequest(url=origin.url(), id="film")
        assert (await (await engine.offline(request)).wait()).expires_at is None  # another file, another matter


async def test_many_repairs_of_one_entry_at_once_are_one(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await offlined(engine, origin)
        spoil(done.path, [0, 9 * CHUNK])
        upkeep = upkeep_of(engine)
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(upkeep.repairs.repair, "film")
        await engine.wait("film")
        assert origin.sent == 2 * CHUNK
        assert content(done.path) == PAYLOAD
