"""What the simulator found, each by a test of its own."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import cast

import pytest
import trio

from engine import DownloadRequest, Durability, Engine, open_engine
from engine.files.filesystem import FileSystem
from engine.files.part_file import PartFile, remove_part
from engine.model.bitmap import Bitmap
from engine.model.chunks import ChunkGrid
from engine.model.records import PartRecord
from engine.store.state_store import StateStore
from engine.transfer.committer import Committer
from engine.transfer.part_job import PartJob
from tests.support.library import CHUNK, SMALL, claims, content, files_under, payload_of, small
from tests.support.origin import Reply, serve
from tests.support.run import assert_complete, run


class NamedAndNoMore(FileSystem):
    """A file gets its final name, and the folder's sync behind it fails for ever: as far as the process came."""

    renamed = False

    def rename_noreplace(self, folder_fd: int, source: str, target: str) -> None:
        super().rename_noreplace(folder_fd, source, target)
        self.renamed = self.renamed or target == "film.bin"

    def sync(self, fd: int) -> None:
        if self.renamed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        super().sync(fd)


class NextBoot(FileSystem):
    """The machine after its next start."""

    def boot_id(self) -> str:
        return "the-boot-after"


@pytest.mark.parametrize("chunks", [1, 3])
@pytest.mark.parametrize("own_path", [True, False])
async def test_c10_c14_a_relaxed_file_whose_power_went_behind_its_naming_is_its_own(
    library: Path, own_path: bool, chunks: int
) -> None:
    """It has its final name and not its bytes, and its source begins anew: no other file is in the way."""
    payload = payload_of(chunks * CHUNK, seed=chunks)
    folder = library.parent / "out" if own_path else library / "files"
    request = DownloadRequest(
        url="", id="film", durability=Durability.RELAXED, destination=str(folder / "film.bin") if own_path else None
    )
    async with serve(payload, lambda _: Reply(ranges=False, etag="", last_modified="")) as origin:
        request = DownloadRequest(
            url=origin.url(), id="film", durability=Durability.RELAXED, destination=request.destination
        )
        ended = await run(library, request, files=NamedAndNoMore(), config=small(backoff_max_s=0.001))
        assert ended.code == "io"
        assert (folder / "film.bin").exists()
        (folder / "film.bin").write_bytes(bytes(chunks * CHUNK - 700))
        again = await run(library, request, files=NextBoot())
    assert_complete(again, payload)
    assert files_under(folder) == {"film.bin"}
    assert claims(library)[0].held_bytes == len(payload)
    assert content(folder / "film.bin") == payload


def a_job(files: FileSystem, folder: Path) -> PartJob:
    folder_fd = files.open_folder(str(folder))
    fd = files.create_exclusive(folder_fd, "p")
    part = PartRecord(folder=str(folder), part_name="p", final_name="f", chunk_bytes=CHUNK, length=4 * CHUNK)
    file = PartFile(files, str(folder), "p", folder_fd, fd, 0, 0, 0, 0)
    return PartJob("film", 1, part, file, ChunkGrid(4 * CHUNK, CHUNK), Bitmap(4), durable=True)


async def test_what_no_commit_will_come_for_lets_go_of_its_file(tmp_path: Path) -> None:
    """An engine that closes leaves no file open: its lock would keep the next engine of the process away from it."""
    files = FileSystem()
    job = a_job(files, tmp_path)
    committer = Committer(SMALL, cast("StateStore", None), files, trio.to_thread.run_sync, "boot")
    await committer.reserve(CHUNK)
    committer.sealed(job, 0, CHUNK, bytes(32))
    job.close_when_idle()
    assert job.file.fd >= 0
    committer.close()
    assert (job.file.fd, job.uncommitted) == (-1, 0)
    assert job.error is not None
    assert job.error.code == "closed"


async def test_removed_parts_do_not_come_back_with_the_power(tmp_path: Path) -> None:
    """C13, C14: their record goes, so their names must have gone from the disk itself."""
    done: list[str] = []

    class Journal(FileSystem):
        def unlink(self, folder_fd: int, name: str) -> bool:
            done.append(f"unlink {name}")
            return super().unlink(folder_fd, name)

        def sync(self, fd: int) -> None:
            done.append(f"sync {os.readlink(f'/proc/self/fd/{fd}') == str(tmp_path)}")
            super().sync(fd)

    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    remove_part(Journal(), str(tmp_path), ("a", "b", "gone"))
    assert done == ["unlink a", "unlink b", "unlink gone", "sync True"]
    done.clear()
    remove_part(Journal(), str(tmp_path), ("gone",))
    assert done == ["unlink gone"]


async def test_h5_asking_again_that_is_given_up_half_way_leaves_the_entry_its_turn(library: Path) -> None:
    """C18: what ran was stopped to be changed, and its asker went away: it runs or waits all the same."""

    async def ask(engine: Engine, url: str, priority: int, scope: trio.CancelScope) -> None:
        with scope:
            await engine.offline(DownloadRequest(url=url, id="film", priority=priority))

    held = serve(payload_of(64 * CHUNK), lambda _: Reply(rate=20_000))
    async with held as origin, open_engine(library, config=small(entries_at_once=1), seed=1) as engine:
        await engine.offline(DownloadRequest(url=origin.url(), id="film"))
        for patience in range(12):
            scope = trio.CancelScope()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask, engine, origin.url(), patience + 1, scope)
                for _ in range(patience):
                    await trio.lowlevel.checkpoint()
                scope.cancel()
            await trio.sleep(0.05)  # what was stopped has ended
            assert engine._manager.runs.active("film"), f"given up after {patience} turns"
