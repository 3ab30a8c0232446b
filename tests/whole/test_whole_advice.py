"""Errors with something to do about them: bad destinations, no descriptors, a broken store; each advice is followed."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import DownloadRequest, StoreCorrupt, open_engine
from engine.errors import Fault
from engine.files.filesystem import FileSystem
from tests.support.library import BIG_CHUNK, SMALL, content, files_under, parts_under, payload_of
from tests.support.origin import Reply, plain, serve
from tests.support.run import assert_complete, assert_failed, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=95)


def in_a_loop(folder: Path) -> Path:
    (folder / "loop").symlink_to(folder / "loop")
    return folder / "loop" / "film.bin"


def under_a_file(folder: Path) -> Path:
    (folder / "plain").write_bytes(b"precious")
    return folder / "plain" / "film.bin"


BAD_PLACES: dict[str, Callable[[Path], Path]] = {
    "long name": lambda folder: folder / ("n" * 256),
    "long folder": lambda folder: folder / ("n" * 256) / "film.bin",
    "loop": in_a_loop,
    "under a file": under_a_file,
}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("place", BAD_PLACES)
async def test_a_destination_that_cannot_be_is_the_callers_fault(
    library: Path, tmp_path: Path, place: str, overwrite: bool
) -> None:
    target = BAD_PLACES[place](tmp_path)
    before = set(os.listdir(tmp_path))
    async with serve(PAYLOAD) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), destination=str(target), overwrite=overwrite))
        assert_failed(outcome, "target_invalid")
        assert outcome.stats.attempts == 1
        good = await run(library, DownloadRequest(url=origin.url(), destination=str(tmp_path / "short.bin")))
    error = outcome.entry.last_error
    assert error is not None
    assert error.fault == Fault.CALLER
    assert "another destination" in error.advice
    assert set(os.listdir(tmp_path)) == before | {"library", "short.bin"}
    assert_complete(good, PAYLOAD)


class Crowded(FileSystem):
    """No descriptor for a new file, so many times."""

    def __init__(self, times: int) -> None:
        self.left = times

    def create_exclusive(self, folder_fd: int, name: str) -> int:
        if self.left:
            self.left -= 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        return super().create_exclusive(folder_fd, name)


async def test_n21_no_descriptor_for_a_moment_is_waited_for(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()), files=Crowded(2))
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.attempts == 3


async def test_n21_no_descriptor_at_all_says_which_limit_to_raise(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url())
        outcome = await run(library, request, files=Crowded(1000))
        assert_failed(outcome, "too_many_files")
        assert_complete(await run(library, request), PAYLOAD)
    error = outcome.entry.last_error
    assert error is not None
    assert error.fault == Fault.HOST
    assert "RLIMIT_NOFILE" in error.advice


async def test_what_the_advice_of_a_corrupt_store_says_is_true(library: Path, tmp_path: Path) -> None:
    """The folder 'store' is moved aside: finished files stay, and what is asked for again is fetched again, beside its
    file in the library, at its own destination only with overwrite; unfinished ones begin anew."""
    own = tmp_path / "mine" / "own.bin"

    def requests(base: str, *, overwrite: bool = False) -> dict[str, DownloadRequest]:
        places = {"in": None, "own": str(own), "half": None}
        return {
            name: DownloadRequest(url=f"{base}/{name}.bin", id=name, destination=place, overwrite=overwrite)
            for name, place in places.items()
        }

    async with serve(PAYLOAD) as origin:
        asked = requests(origin.base)
        first = await run(library, asked["in"])
        assert_complete(first, PAYLOAD)
        assert_complete(await run(library, asked["own"]), PAYLOAD)
        origin.forget()
        origin.script = lambda request: Reply() if request.number <= 6 else Reply(status=404)
        assert_failed(await run(library, asked["half"]), "not_found", 404)
        origin.script = plain
        (library / "store" / "data.mdb").write_bytes(b"junk" * 10_000)
        for _ in range(2):
            with pytest.raises(StoreCorrupt) as raised:
                await run(library, asked["in"])
        assert "'store' of the root aside" in raised.value.advice
        assert (library / "store" / "data.mdb").read_bytes() == b"junk" * 10_000
        (library / "store").rename(library / "store.broken")
        async with open_engine(library, config=SMALL) as engine:
            assert await engine.list() == []
        assert first.offline is not None
        assert content(first.offline.path) == content(own) == PAYLOAD
        again = await run(library, asked["in"])
        assert_complete_beside(again.offline is not None and again.offline.path, first.offline.path)
        assert_failed(await run(library, asked["own"]), "target_exists")
        assert_complete(await run(library, requests(origin.base, overwrite=True)["own"]), PAYLOAD)
        unfinished = await run(library, asked["half"])
    assert_complete(unfinished, PAYLOAD)
    assert unfinished.stats.bytes_resumed == 0
    assert parts_under(library) == set()
    assert len(files_under(library / "files")) == 3


def assert_complete_beside(path: str | bool, old: str) -> None:
    assert isinstance(path, str)
    assert path != old
    assert os.path.dirname(path) == os.path.dirname(old)
    assert content(path) == content(old) == PAYLOAD
