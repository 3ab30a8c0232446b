"""What lies at the destination already: devices and folders, a user's edits, rot; what may be replaced (D14, D18)."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import DownloadRequest, Health, IntegrityError, State, open_engine
from engine.engine import Engine
from engine.errors import TargetExists
from tests.support.library import (
    BIG_CHUNK,
    CHUNK,
    SMALL,
    claims,
    content,
    files_under,
    hash_of,
    parts_under,
    payload_of,
)
from tests.support.origin import Reply, Script, plain, serve
from tests.support.run import assert_complete, assert_failed, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=91)
EDIT = b"a tag that the user wrote"
DAY_NS = 86_400 * 10**9


def half(count: int = 6) -> Script:
    """The truth for so many requests, then an error that ends the entry."""
    return lambda asked: Reply() if asked.number <= count else Reply(status=404)


def make_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))


NODES: dict[str, Callable[[Path], None]] = {
    "device": make_device,
    "fifo": os.mkfifo,
    "socket": make_socket,
}


@pytest.mark.parametrize("kind", NODES)
async def test_overwriting_is_for_plain_files(library: Path, tmp_path: Path, kind: str) -> None:
    """D14: refused before anything is fetched or waited for; the node is the same afterwards."""
    node = tmp_path / "film.bin"
    NODES[kind](node)
    before = os.lstat(node)
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(node), overwrite=True)
        assert_failed(await run(library, request), "target_exists")
        assert origin.asked == []
    after = os.lstat(node)
    assert (after.st_ino, after.st_mode, after.st_rdev) == (before.st_ino, before.st_mode, before.st_rdev)
    assert set(os.listdir(tmp_path)) == {"film.bin", "library"}
    assert parts_under(tmp_path) == set()


async def test_a_folder_of_the_servers_name_is_not_overwritten(library: Path, tmp_path: Path) -> None:
    """The destination is a folder, and in it a folder has the file's name: with what is in it, it stays."""
    (tmp_path / "music" / "film.bin").mkdir(parents=True)
    (tmp_path / "music" / "film.bin" / "inside").write_bytes(b"precious")
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{tmp_path}/music/", overwrite=True)
        assert_failed(await run(library, request), "target_exists")
    assert (tmp_path / "music" / "film.bin" / "inside").read_bytes() == b"precious"


async def test_a_folder_as_destination_is_asked_for_a_place_inside(library: Path, tmp_path: Path) -> None:
    """Overwriting never means the folder itself, also when its path has no slash at its end."""
    (tmp_path / "music").mkdir()
    (tmp_path / "music" / "other").write_bytes(b"precious")
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), destination=f"{tmp_path}/music", overwrite=True)
        assert_complete(await run(library, request), PAYLOAD)
    assert files_under(tmp_path / "music") == {"film.bin", "other"}


def edit_longer(path: str) -> None:
    with open(path, "ab") as file:
        file.write(EDIT)


def edit_in_place(path: str) -> None:
    with open(path, "r+b") as file:
        file.write(EDIT)
    os.utime(path, ns=(0, os.stat(path).st_mtime_ns + DAY_NS))


def edit_by_rename(path: str) -> None:
    """As tag editors do: another file under the name."""
    with open(f"{path}.new", "wb") as file:
        file.write(EDIT + PAYLOAD[len(EDIT) :])
    os.utime(f"{path}.new", ns=(0, os.stat(path).st_mtime_ns + DAY_NS))
    os.rename(f"{path}.new", path)


def rot(path: str) -> None:
    """Other bytes, and nothing shows from outside."""
    info = os.stat(path)
    with open(path, "r+b") as file:
        file.seek(5 * BIG_CHUNK)
        file.write(bytes(byte ^ 0xFF for byte in PAYLOAD[5 * BIG_CHUNK : 5 * BIG_CHUNK + 20]))
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


async def ask(engine: Engine, request: DownloadRequest) -> str:
    return (await (await engine.offline(request)).wait()).path


@pytest.mark.parametrize("edit", [edit_longer, edit_in_place, edit_by_rename])
@pytest.mark.parametrize("where", ["library", "destination"])
async def test_a_users_edit_is_kept_until_overwriting_is_asked_for(
    library: Path, tmp_path: Path, where: str, edit: Callable[[str], None]
) -> None:
    destination = None if where == "library" else str(tmp_path / "mine.bin")
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="x", destination=destination)
        async with open_engine(library, config=SMALL) as engine:
            path = await ask(engine, request)
            edit(path)
            edited = content(path)
            origin.forget()
            for _ in range(2):
                with pytest.raises(TargetExists, match="not what was downloaded"):
                    await engine.offline(request)
                assert content(path) == edited
            assert (await engine.get("x")).state is State.COMPLETED
            assert origin.asked == []
        async with open_engine(library, config=SMALL) as engine:  # and after a start
            with pytest.raises(TargetExists):
                await engine.offline(request)
            assert content(path) == edited
            overwriting = DownloadRequest(url=origin.url(), id="x", destination=destination, overwrite=True)
            assert await ask(engine, overwriting) == path
        assert origin.sent >= len(PAYLOAD)
    assert content(path) == PAYLOAD
    assert parts_under(os.path.dirname(path)) == set()


async def test_a_touched_file_is_no_edit(library: Path) -> None:
    """Another time stamp and the same bytes: a look at them, and nothing is fetched."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        path = await ask(engine, DownloadRequest(url=origin.url(), id="x"))
        os.utime(path, ns=(0, os.stat(path).st_mtime_ns + DAY_NS))
        origin.forget()
        assert await ask(engine, DownloadRequest(url=origin.url(), id="x")) == path
        assert await ask(engine, DownloadRequest(url=origin.url(), id="x", overwrite=True)) == path
        assert origin.asked == []


async def test_overwriting_heals_a_rotten_file(library: Path) -> None:
    """Without it nothing shows that the file is bad; `verify` tells, and overwriting fetches it anew."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        request = DownloadRequest(url=origin.url(), id="x")
        path = await ask(engine, request)
        rot(path)
        origin.forget()
        assert await ask(engine, request) == path
        assert origin.asked == []
        (found,) = await engine.validate_downloads()
        assert found.health is Health.CORRUPT
        assert await ask(engine, DownloadRequest(url=origin.url(), id="x", overwrite=True)) == path
        assert content(path) == PAYLOAD
        (healed,) = await engine.validate_downloads()
        assert healed.health is Health.VALID


async def test_two_urls_with_one_name_are_two_files(library: Path, tmp_path: Path) -> None:
    """H3: asked for together, in the library as well as in a folder of the caller's; none overwrites the other."""
    other = payload_of(len(PAYLOAD), seed=92)
    for destination in (None, f"{tmp_path}/out/"):
        async with serve(PAYLOAD) as one, serve(other) as two, open_engine(library, config=SMALL) as engine:
            downloads = [
                await engine.offline(DownloadRequest(url=origin.url("same.bin"), destination=destination))
                for origin in (one, two)
            ]
            paths = [(await download.wait()).path for download in downloads]
        assert [content(path) for path in paths] == [PAYLOAD, other]
        assert len(files_under(os.path.dirname(paths[0]))) == 2


@pytest.mark.parametrize("algorithm", ["blake3", "sha256"])
async def test_a_write_into_the_unfinished_file_is_not_believed(library: Path, algorithm: str) -> None:
    """The chunks are known by their CVs, but what is expected is compared with the disk when bytes were resumed.

    The time stamp is put back, so that only the bytes tell. Asked once more, everything is fetched anew.
    """
    digest = hash_of(PAYLOAD) if algorithm == "blake3" else hashlib.sha256(PAYLOAD).hexdigest()
    async with serve(PAYLOAD, half()) as origin:
        request = DownloadRequest(url=origin.url(), id="x", expect={algorithm: digest})
        assert_failed(await run(library, request), "not_found", 404)
        (claim,) = claims(library)
        start, _ = claim.ranges[0]
        info = os.stat(claim.path)
        with open(claim.path, "r+b") as file:
            file.seek(start)
            file.write(bytes(byte ^ 0xFF for byte in PAYLOAD[start : start + 100]))
        os.utime(claim.path, ns=(info.st_atime_ns, info.st_mtime_ns))
        origin.script = plain
        spoiled = await run(library, request)
        assert_failed(spoiled, "integrity")
        assert spoiled.stats.bytes_resumed > 0
        assert files_under(library / "files") == parts_under(library / "files")
        assert spoiled.entry.last_error is not None
        assert "another program wrote" in spoiled.entry.last_error.advice
        again = await run(library, request)
    assert_complete(again, PAYLOAD)
    assert again.stats.bytes_resumed == 0


async def test_a_wrong_digest_of_a_rotten_file_is_never_completed(library: Path) -> None:
    """A new expectation of a finished file is compared with what was downloaded, and never changes the file."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        path = await ask(engine, DownloadRequest(url=origin.url(), id="x"))
        with pytest.raises(IntegrityError):
            await engine.offline(DownloadRequest(url=origin.url(), id="x", expect={"blake3": "0" * 64}))
        assert content(path) == PAYLOAD


@pytest.mark.parametrize("at_once", [True, False], ids=["at once", "one after the other"])
@pytest.mark.parametrize("where", ["library", "own folder"])
@pytest.mark.parametrize("size", [CHUNK // 2, 20 * CHUNK], ids=["one chunk", "many"])
async def test_a_folder_takes_files_of_one_name(
    library: Path, tmp_path: Path, where: str, size: int, at_once: bool
) -> None:
    """One rule wherever the folder is, and whenever the name was taken: the next gets a tag."""
    folder = library / "files" if where == "library" else tmp_path / "music"
    destination = None if where == "library" else f"{folder}/"
    folder.mkdir(parents=True)
    (folder / "film.bin").write_bytes(b"mine")
    payload = payload_of(size, seed=77)
    async with serve(payload) as origin, open_engine(library, config=SMALL) as engine:
        downloads = []
        for number in range(3):
            request = DownloadRequest(url=f"{origin.url()}?{number}", id=f"e{number}", destination=destination)
            downloads.append(await engine.offline(request))
            if not at_once:
                await downloads[-1].wait()
        paths = {(await download.wait()).path for download in downloads}
    assert len(paths) == 3
    assert all(content(path) == payload for path in paths)
    assert (folder / "film.bin").read_bytes() == b"mine"
    assert files_under(folder) == {"film.bin"} | {os.path.basename(path) for path in paths}
