"""Disks that fill up, turn read-only, fail, or lose files behind the engine's back (fault catalogue D)."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from engine import DownloadFailed, DownloadRequest, Durability, Reason, StoreUnusable, open_engine
from engine.config import KIB, MIB
from engine.files.filesystem import FileSystem
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, check_claim, claims, content, files_under, payload_of, small
from tests.support.mounts import TinyTmpfs
from tests.support.origin import Asked, End, Reply, plain, serve
from tests.support.run import (
    Outcome,
    assert_complete,
    assert_failed,
    assert_nothing_published,
    assert_parked,
    run,
    wait_or_parked,
)

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=5)
Mount = Callable[[int], TinyTmpfs]


def half(asked: Asked) -> Reply:
    """The first few spans, then an error that ends the entry."""
    return Reply() if asked.number <= 6 else Reply(status=404)


async def test_no_room_at_allocation(library: Path, tiny_tmpfs: Mount) -> None:
    """D1: refused before a byte is written, and nothing is left on the full disk."""
    disk = tiny_tmpfs(1 * MIB)
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{disk.path}/")
        outcome = await run(library, request)
        assert_parked(outcome)
        assert files_under(disk.path) == set()
        assert os.statvfs(disk.path).f_bfree * os.statvfs(disk.path).f_frsize == 1 * MIB
        disk.resize(4 * MIB)
        assert_complete(await run(library, request), PAYLOAD)


async def test_the_reserve_is_kept_free(library: Path, tiny_tmpfs: Mount) -> None:
    disk = tiny_tmpfs(3 * MIB)
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{disk.path}/")
        assert_parked(await run(library, request, config=small(free_space_reserve_bytes=2 * MIB)))
        assert_complete(await run(library, request, config=small(free_space_reserve_bytes=1 * MIB)), PAYLOAD)


class NoFallocate(FileSystem):
    """A file system without fallocate: the blocks come as they are written."""

    def allocate(self, fd: int, length: int) -> None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


class RoomySeeming(NoFallocate):
    """One that says it has room, and has not."""

    def free_bytes(self, fd: int) -> int:
        return 1 << 40


@pytest.mark.parametrize("durability", list(Durability))
async def test_full_in_the_middle(library: Path, tiny_tmpfs: Mount, durability: Durability) -> None:
    """D2: what was written before stays and is built on; no chunk that failed is believed."""
    disk = tiny_tmpfs(1 * MIB)
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{disk.path}/", durability=durability)
        outcome = await run(library, request, files=RoomySeeming())
        assert_parked(outcome)
        (claim,) = claims(library)
        check_claim(library, claim, PAYLOAD)
        assert 0 < claim.held_bytes <= 1 * MIB
        disk.resize(4 * MIB)
        again = await run(library, request, files=RoomySeeming())
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_resumed == claim.held_bytes


async def test_a_body_of_unknown_length_fills_the_disk(library: Path, tiny_tmpfs: Mount) -> None:
    """D2, S26: there is nothing to preallocate, so it ends in the middle."""
    disk = tiny_tmpfs(1 * MIB)
    async with serve(PAYLOAD, lambda _: Reply(ranges=False, framing="chunked")) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{disk.path}/")
        outcome = await run(library, request)
        assert_parked(outcome)
        assert not (disk.path / "film.bin").exists()
        disk.resize(8 * MIB)
        assert_complete(await run(library, request), PAYLOAD)
        assert files_under(disk.path) == {"film.bin"}


@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_the_disk_of_the_store_is_full_too(tiny_tmpfs: Mount, framing: str) -> None:
    """D4: the store cannot record its own trouble on the same full disk; still nothing is lost and nothing believed."""
    disk = tiny_tmpfs(1536 * KIB)
    library = disk.path / "library"
    async with serve(PAYLOAD, lambda _: Reply(ranges=framing == "length", framing=framing)) as origin:
        request = DownloadRequest(url=origin.url())
        outcome = await run(library, request, files=RoomySeeming())
        assert outcome.code in {"no_space", "store_unusable"}  # LMDB tells of a write cut short as of an I/O error
        assert not (library / "files" / "film.bin").exists()
        for claim in claims(library):
            check_claim(library, claim, PAYLOAD)
        disk.resize(8 * MIB)
        assert_complete(await run(library, request, files=RoomySeeming()), PAYLOAD)


async def test_a_store_that_cannot_record_a_failure_can_be_asked_again(tiny_tmpfs: Mount) -> None:
    """D4: the same engine goes on when there is room again."""
    disk = tiny_tmpfs(1536 * KIB)
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url())
        async with open_engine(disk.path / "library", config=SMALL, files=RoomySeeming(), seed=1) as engine:
            download = await engine.offline(request)
            ended = ""
            try:
                assert await wait_or_parked(engine, download) is None, "the disk is full"
            except DownloadFailed as failed:  # when not even that could be recorded
                ended = failed.cause_code
            assert ended in {"", "no_space", "store_unusable"}
            disk.resize(8 * MIB)
            offline = await (await engine.offline(request)).wait()
    assert content(offline.path) == PAYLOAD


async def test_a_body_of_unknown_length_keeps_off_the_reserve(tiny_tmpfs: Mount) -> None:
    """S26, D2: so that the store and everyone else can still write."""
    disk = tiny_tmpfs(6 * MIB)
    config = small(free_space_reserve_bytes=3 * MIB)
    endless = Reply(ranges=False, framing="chunked", body=bytes(8 * MIB))
    async with serve(PAYLOAD, lambda _: endless) as origin:
        outcome = await run(disk.path / "library", DownloadRequest(url=origin.url()), config=config)
    assert_parked(outcome)
    assert "in reserve" in outcome.message


async def test_a_neighbour_is_not_harmed_by_a_full_disk(library: Path, tiny_tmpfs: Mount) -> None:
    disk = tiny_tmpfs(1 * MIB)
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL, files=RoomySeeming()) as engine:
        full = await engine.offline(DownloadRequest(url=origin.url(), destination=f"{disk.path}/"))
        fine = await engine.offline(DownloadRequest(url=origin.url(), id="neighbour"))
        assert content((await fine.wait()).path) == PAYLOAD
        assert await wait_or_parked(engine, full) is None
        assert (await engine.get(full.id)).state_reason is Reason.DISK


async def test_the_target_turns_read_only(library: Path, tiny_tmpfs: Mount) -> None:
    """D10."""
    disk = tiny_tmpfs(8 * MIB)
    disk.freeze()
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{disk.path}/")
        outcome = await run(library, request)
        assert_failed(outcome, "read_only")
        assert files_under(disk.path) == set()
        disk.thaw()
        assert_complete(await run(library, request), PAYLOAD)


async def test_a_read_only_root(tiny_tmpfs: Mount) -> None:
    """D10: the engine says so before anything else, for a new root and for one that is there."""
    disk = tiny_tmpfs(8 * MIB)
    async with serve(PAYLOAD) as origin:
        assert_complete(await run(disk.path / "library", DownloadRequest(url=origin.url())), PAYLOAD)
        disk.freeze()
        for root in ("library", "new"):
            with pytest.raises(StoreUnusable, match=r"[Rr]ead-only"):
                await run(disk.path / root, DownloadRequest(url=origin.url()))
        disk.thaw()
        again = await run(disk.path / "library", DownloadRequest(url=origin.url()))
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_fetched == 0


async def test_the_part_was_deleted(library: Path) -> None:
    """D13: nothing that it held is believed any more."""
    outcome, part = await _half_done(library, lambda path: path.unlink())
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == 0
    assert not part.exists()


async def test_the_part_was_cut(library: Path) -> None:
    """D13: what lies before the cut stays."""
    cut = 3 * CHUNK + 7
    outcome, _ = await _half_done(library, lambda path: os.truncate(path, cut))
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed <= 3 * CHUNK


async def test_the_part_was_emptied(library: Path) -> None:
    outcome, _ = await _half_done(library, lambda path: os.truncate(path, 0))
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == 0


async def test_the_part_was_made_longer(library: Path) -> None:
    """D13: the file that is published has the right length all the same."""
    outcome, _ = await _half_done(library, lambda path: os.truncate(path, len(PAYLOAD) + 100))
    assert_complete(outcome, PAYLOAD)


async def test_the_part_was_replaced_by_its_own_copy(library: Path) -> None:
    """D13, C20, M27: another inode is hashed before it is believed; a true copy loses nothing."""

    def replace(path: Path) -> None:
        data = path.read_bytes()
        path.unlink()
        path.write_bytes(data)

    outcome, _ = await _half_done(library, replace)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed > 0


async def test_the_part_was_replaced_by_something_else(library: Path) -> None:
    def replace(path: Path) -> None:
        data = bytearray(path.read_bytes())
        path.unlink()
        data[5] ^= 1
        path.write_bytes(data)

    outcome, _ = await _half_done(library, replace)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed > 0


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "folder"])
async def test_the_part_was_replaced_by_a_trap(library: Path, tmp_path: Path, kind: str) -> None:
    """M2, M3: never followed, never written into."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    os.chmod(victim, 0o600)

    def replace(path: Path) -> None:
        path.unlink()
        if kind == "symlink":
            path.symlink_to(victim)
        elif kind == "hard link":
            path.hardlink_to(victim)
        elif kind == "fifo":
            os.mkfifo(path)
        else:
            path.mkdir()

    with trio.fail_after(20):
        outcome, _ = await _half_done(library, replace)
    assert victim.read_bytes() == b"precious"
    if kind == "folder":  # nothing that the engine could remove: it is left, and its owner told
        assert_failed(outcome, "io")
    else:
        assert_complete(outcome, PAYLOAD)


async def _half_done(library: Path, harm: Callable[[Path], object]) -> tuple[Outcome, Path]:
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url())
        assert_failed(await run(library, request), "not_found", 404)
        held = assert_nothing_published(library, PAYLOAD)
        assert held > 4 * CHUNK
        part = Path(claims(library)[0].path)
        harm(part)
        origin.script = plain
        return await run(library, request), part


async def test_the_folder_of_the_target_is_gone(library: Path, tmp_path: Path) -> None:
    """D22: a folder that the caller had is not made again by surprise; once it is there, the download goes on."""
    folder = tmp_path / "music"
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{folder}/")
        assert_failed(await run(library, request), "not_found", 404)
        folder.rename(tmp_path / "moved")
        origin.script = plain
        assert_failed(await run(library, request), "target_gone")
        folder.mkdir()
        assert_complete(await run(library, request), PAYLOAD)


async def test_the_folder_of_the_target_is_a_file(library: Path, tmp_path: Path) -> None:
    (tmp_path / "music").write_bytes(b"a file")
    async with serve(PAYLOAD) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), destination=str(tmp_path / "music" / "x.bin")))
    assert_failed(outcome, "target_invalid")
    assert (tmp_path / "music").read_bytes() == b"a file"


class FailingSync(FileSystem):
    """fdatasync fails once, as the first one to tell of a lost page does; the next one says that all is well."""

    def __init__(self) -> None:
        self.failed = False

    def sync_data(self, fd: int) -> None:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync_data(fd)


async def test_a_failed_sync_is_never_trusted(library: Path) -> None:
    """D6: the chunks since the last good sync are missing, whatever a later sync says."""
    files = FailingSync()
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url())
        outcome = await run(library, request, files=files)
        assert_failed(outcome, "io")
        held = assert_nothing_published(library, PAYLOAD)
        fetched = outcome.stats.bytes_fetched
        assert held <= fetched - CHUNK
        again = await run(library, request, files=files)
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_resumed == held


async def test_the_output_exists(library: Path, tmp_path: Path) -> None:
    """D14: never overwritten unless asked, and refused before anything is fetched."""
    target = tmp_path / "mine.flac"
    target.write_bytes(b"mine")
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(target))
        assert_failed(await run(library, request), "target_exists")
        assert origin.asked == []
        assert target.read_bytes() == b"mine"
        overwriting = DownloadRequest(url=origin.url(), destination=str(target), overwrite=True)
        assert_complete(await run(library, overwriting), PAYLOAD)
    assert content(target) == PAYLOAD


async def test_the_output_appears_while_it_is_fetched(library: Path, tmp_path: Path) -> None:
    """D14: the name is taken at the last moment; the other file stays, the finished bytes are kept for another try."""
    target = tmp_path / "mine.flac"

    def script(asked: Asked) -> Reply:
        if asked.number == 3:
            target.write_bytes(b"theirs")
        return Reply()

    async with serve(PAYLOAD, script) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(target))
        assert_failed(await run(library, request), "target_exists")
        assert target.read_bytes() == b"theirs"
        target.unlink()
        again = await run(library, request)
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_fetched == 0


@pytest.mark.parametrize("kind", ["symlink", "folder"])
async def test_the_output_is_a_trap(library: Path, tmp_path: Path, kind: str) -> None:
    """M2: a link in the target's place is a file that exists; when overwritten the link goes, not what it names."""
    target, victim = tmp_path / "mine.flac", tmp_path / "victim"
    victim.write_bytes(b"precious")
    if kind == "symlink":
        target.symlink_to(victim)
    else:
        (target / "full").mkdir(parents=True)
    name = f"{target}/../mine.flac"
    async with serve(PAYLOAD) as origin:
        if kind == "symlink":
            assert_failed(await run(library, DownloadRequest(url=origin.url(), destination=name)), "target_exists")
            request = DownloadRequest(url=origin.url(), destination=name, overwrite=True)
            assert_complete(await run(library, request), PAYLOAD)
        else:  # a folder that exists means: in there
            assert_complete(await run(library, DownloadRequest(url=origin.url(), destination=name)), PAYLOAD)
            assert (target / "full").is_dir()
            assert content(target / "film.bin") == PAYLOAD
    assert victim.read_bytes() == b"precious"


async def test_a_stream_held_up_by_a_hang_is_parked_by_the_close(library: Path) -> None:
    """C18: closing the engine in the middle commits what came, and the next one goes on from there."""
    async with serve(PAYLOAD, lambda _: Reply(send=2 * BIG_CHUNK, end=End.HANG)) as origin:
        with trio.fail_after(10):
            async with open_engine(library, config=SMALL, seed=1) as engine:
                await engine.offline(DownloadRequest(url=origin.url()))
                await origin.until_sent(5 * BIG_CHUNK)
        held = assert_nothing_published(library, PAYLOAD)
        assert held > 0
        origin.script = plain
        outcome = await run(library, DownloadRequest(url=origin.url()))
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == held
    assert outcome.stats.bytes_fetched == len(PAYLOAD) - held
