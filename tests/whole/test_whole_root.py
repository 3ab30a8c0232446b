"""The root and its store: in use, damaged, newer, a copy (fault catalogue L, H9, H14, C15)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import lmdb
import msgspec
import pytest
import trio

from engine import (
    DownloadFailed,
    DownloadRequest,
    Fault,
    Health,
    InvalidRequest,
    StateChanged,
    StoreBusy,
    StoreCopied,
    StoreCorrupt,
    StoreError,
    StoreGone,
    StoreTooNew,
    StoreUnusable,
    open_engine,
)
from engine.store.schema import SCHEMA_VERSION, write_version
from tests.support.engine_process import EngineProcesses, Job
from tests.support.library import BIG_CHUNK, SMALL, claims, content, files_under, payload_of, small
from tests.support.origin import Reply, plain, serve
from tests.support.run import assert_complete, run

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=51)


async def test_two_engines_on_one_root(library: Path, processes: EngineProcesses) -> None:
    """L7: the second one is told whose it is, and the first one is not disturbed."""
    async with serve(PAYLOAD) as origin:
        origin.rate = 1e6
        pid = await processes.start(Job(root=str(library), url=origin.url(), report=str(library.parent / "report")))
        await origin.until_sent(2 * BIG_CHUNK)
        with pytest.raises(StoreBusy) as raised:
            await run(library, DownloadRequest(url=origin.url()))
        assert raised.value.pid == pid
        assert claims(library)[0].entry.id == "film", "a reader is let in all the same"
        origin.rate = None
        assert await processes.wait() == 0
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="film")), PAYLOAD)


async def test_two_engines_of_one_process(library: Path) -> None:
    """L6."""
    async with open_engine(library, config=SMALL):
        with pytest.raises(StoreBusy) as raised:
            async with open_engine(library, config=SMALL):
                pytest.fail("a second engine on the root")
        assert raised.value.pid == os.getpid()
    async with open_engine(library, config=SMALL) as engine:
        assert await engine.list() == []


async def _finished(library: Path) -> str:
    async with serve(PAYLOAD) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url(), id="film"))
    assert_complete(outcome, PAYLOAD)
    assert outcome.offline is not None
    return outcome.offline.path


@pytest.mark.parametrize("left", [0, 1, 100, 4096, 8192, 20_000])
async def test_the_store_was_cut(library: Path, left: int) -> None:
    """L11, L12: refused, not killed by SIGBUS; the file and the store are left as they are."""
    path = await _finished(library)
    data = library / "store" / "data.mdb"
    os.truncate(data, left)
    before = data.read_bytes()
    with pytest.raises(StoreError) as raised:
        async with open_engine(library, config=SMALL):
            pytest.fail("a store that was cut was opened")
    assert isinstance(raised.value, StoreCorrupt)
    assert data.read_bytes() == before
    assert content(path) == PAYLOAD


async def test_the_store_is_something_else(library: Path) -> None:
    """C15, L14."""
    await _finished(library)
    data = library / "store" / "data.mdb"
    data.write_bytes(b"\0" * 65536)
    with pytest.raises(StoreCorrupt):
        async with open_engine(library, config=SMALL):
            pytest.fail("zeros were opened as a store")


async def test_the_store_is_of_a_newer_version(library: Path) -> None:
    """H9: left untouched."""
    await _finished(library)
    data = library / "store" / "data.mdb"
    environment = lmdb.open(str(library / "store"), max_dbs=32, map_size=1 << 24, lib_version=0)
    meta = environment.open_db(b"meta", create=False)
    with environment.begin(write=True, db=meta) as txn:
        write_version(txn, meta, SCHEMA_VERSION + 1)
    environment.close()
    before = data.read_bytes()
    with pytest.raises(StoreTooNew):
        async with open_engine(library, config=SMALL):
            pytest.fail("a newer store was opened")
    assert data.read_bytes() == before


async def test_the_root_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(b"a file")
    for root in (tmp_path / "root", tmp_path / "root" / "below"):
        with pytest.raises(StoreUnusable):
            async with open_engine(root, config=SMALL):
                pytest.fail("a file was opened as a root")
    assert (tmp_path / "root").read_bytes() == b"a file"


async def test_a_root_whose_path_is_not_utf_8_is_refused_and_a_link_to_it_is_fine(tmp_path: Path) -> None:
    root = Path(os.fsdecode(os.fsencode(tmp_path) + b"/music\xff"))
    with pytest.raises(InvalidRequest, match="symbolic link"):
        async with open_engine(root, config=SMALL):
            pytest.fail("its records could not hold a path")
    assert os.listdir(tmp_path) == []
    root.mkdir()
    (tmp_path / "link").symlink_to(root)
    async with serve(PAYLOAD) as origin:
        assert_complete(await run(tmp_path / "link", DownloadRequest(url=origin.url(), id="film")), PAYLOAD)


async def test_the_root_moved_while_nothing_ran(library: Path, tmp_path: Path) -> None:
    """C20: the part is where the record says, or it is fetched again; either way the file is right."""
    async with serve(PAYLOAD, lambda asked: Reply() if asked.number < 7 else Reply(status=404)) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        await run(library, request)
        shutil.copytree(library, tmp_path / "copy")
        shutil.rmtree(library)
        origin.script = plain
        outcome = await run(tmp_path / "copy", request)
        if outcome.offline is None:
            outcome = await run(tmp_path / "copy", request)
    assert outcome.code in {"", "target_gone"}


async def test_the_map_grows_as_it_must(library: Path) -> None:
    """L1: a map that is far too small for all the chunks, while four connections commit."""
    config = small(map_bytes=64 * 1024, small_chunk_bytes=1024, chunk_bytes=1024)
    payload = payload_of(3_000_001, seed=52)
    async with serve(payload) as origin:
        outcome = await run(library, DownloadRequest(url=origin.url()), config=config)
    assert_complete(outcome, payload)


async def test_the_root_is_named_relatively(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The working directory may change afterwards."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    async with serve(PAYLOAD) as origin, open_engine("library", config=SMALL) as engine:
        os.chdir(tmp_path / "elsewhere")
        offline = await (await engine.offline(DownloadRequest(url=origin.url()))).wait()
    assert offline.path == str(tmp_path / "library" / "files" / "film.bin")
    assert content(offline.path) == PAYLOAD


async def test_an_engine_opened_and_closed_many_times(library: Path) -> None:
    """No descriptor, thread or lock is left behind."""
    async with open_engine(library, config=SMALL):
        pass
    before = len(os.listdir("/proc/self/fd"))
    with trio.fail_after(30):
        for _ in range(20):
            async with open_engine(library, config=SMALL):
                pass
    assert len(os.listdir("/proc/self/fd")) <= before


@pytest.mark.parametrize("how", ["moved", "deleted", "replaced"])
async def test_h14_the_root_goes_while_a_download_runs(library: Path, tmp_path: Path, how: str) -> None:
    """The entry ends as store_gone, nothing is made anew where the root was, and a moved one goes on at its new place
    with what was on record."""
    away = tmp_path / "away"
    held = 0
    async with serve(PAYLOAD) as origin:
        origin.rate = 2e6
        async with open_engine(library, config=SMALL) as engine:
            download = await engine.offline(DownloadRequest(url=origin.url(), id="film"))
            await origin.until_sent(8 * BIG_CHUNK)
            if how == "deleted":
                shutil.rmtree(library)
            else:
                os.rename(library, away)
            if how == "replaced":
                library.mkdir()
            origin.rate = None
            with trio.fail_after(20), pytest.raises(DownloadFailed) as raised:
                await download.wait()
            assert raised.value.cause_code == "store_gone"
            assert raised.value.fault is Fault.STORAGE
            assert "put the root back" in raised.value.advice
            with pytest.raises(StoreGone):
                await engine.offline(DownloadRequest(url=f"{origin.url()}?other", id="other"))
            with pytest.raises(StoreGone):
                await engine.pause("film")
        assert library.exists() == (how == "replaced")
        assert how != "replaced" or os.listdir(library) == []
        if how == "deleted":
            return
        async with open_engine(away, config=SMALL) as engine:
            offline = await engine.wait("film")
            held = engine.run_stats("film").bytes_resumed
    assert held > 0
    assert offline.path == str(away / "files" / "film.bin")
    assert content(offline.path) == PAYLOAD
    assert library.exists() == (how == "replaced")


async def test_a_moved_root_has_its_files_and_goes_on_with_its_parts(library: Path, tmp_path: Path) -> None:
    """Nothing that is there is fetched again, and removing finds the files."""
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await (await engine.offline(DownloadRequest(url=origin.url(), id="done"))).wait()
            origin.rate = 2e6
            await engine.offline(DownloadRequest(url=f"{origin.url()}?2", id="half"))
            await origin.until_sent(len(PAYLOAD) + 8 * BIG_CHUNK)
        os.rename(library, tmp_path / "moved")
        origin.rate = None
        async with open_engine(tmp_path / "moved", config=SMALL) as engine:
            await engine.wait("half")
            assert engine.run_stats("half").bytes_resumed > 0
            again = await engine.offline(DownloadRequest(url=origin.url(), id="done"))
            assert (await again.wait()).path == str(tmp_path / "moved" / "files" / "film.bin")
            assert again.stats.bytes_fetched == 0
            assert [each.health for each in await engine.validate_downloads()] == [Health.VALID] * 2
            await engine.remove_all()
        assert files_under(tmp_path / "moved" / "files") == set()
    assert not library.exists()


async def test_a_copied_root_is_refused_and_can_be_adopted(library: Path, tmp_path: Path) -> None:
    """Whatever the copy does afterwards, the original's files stay as they are: those inside of it, and its unfinished
    one outside."""
    outside = tmp_path / "outside"
    outside.mkdir()
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await (await engine.offline(DownloadRequest(url=origin.url(), id="done"))).wait()
            origin.rate = 2e6
            await engine.offline(DownloadRequest(url=f"{origin.url()}?2", id="half", destination=f"{outside}/half.bin"))
            await origin.until_sent(len(PAYLOAD) + 8 * BIG_CHUNK)
        copy = tmp_path / "copy"
        shutil.copytree(library, copy)
        before = {name: content(outside / name) for name in files_under(outside)}
        assert len(before) == 1
        origin.rate = None
        with pytest.raises(StoreCopied):
            async with open_engine(copy, config=SMALL):
                pytest.fail("a copy was opened beside its original")
        async with open_engine(copy, config=SMALL, adopt=True) as engine:
            assert [entry.id for entry in await engine.list()] == ["done"]
            await engine.gc(everywhere=True, remove_stale=True)
            await engine.remove_all()
        assert {name: content(outside / name) for name in files_under(outside)} == before
        assert files_under(library / "files") == {"film.bin"}
        async with open_engine(library, config=SMALL) as engine:
            assert (await engine.wait("half")).size == len(PAYLOAD)
            assert engine.run_stats("half").bytes_resumed > 0


async def test_two_libraries_never_write_one_part(tmp_path: Path) -> None:
    """The same id and destination in two roots have the same name for their unfinished file: who is second leaves it
    alone, takes another, and finds the final name taken in the end."""
    shared = tmp_path / "shared"
    shared.mkdir()
    request = DownloadRequest(url="", id="film", destination=str(shared / "film.bin"))
    async with serve(PAYLOAD) as origin:
        origin.rate = 2e5
        request = msgspec.structs.replace(request, url=origin.url())
        async with (
            open_engine(tmp_path / "one", config=SMALL) as one,
            open_engine(tmp_path / "two", config=SMALL) as two,
        ):
            first = await one.offline(request)
            await origin.until_sent(2 * BIG_CHUNK)
            [part] = files_under(shared)
            inode = (shared / part).stat().st_ino
            with two.events("film") as events:
                second = await two.offline(request)
                async for event in events:
                    if isinstance(event, StateChanged) and event.error is not None:
                        assert event.error.code == "part_busy"
                        break
            assert (shared / part).stat().st_ino == inode
            await two.pause("film")
            origin.rate = None
            assert content((await first.wait()).path) == PAYLOAD
            await two.resume("film")
            with pytest.raises(DownloadFailed, match="exists already") as raised:
                await second.wait()
            assert raised.value.cause_code == "target_exists"
            assert not raised.value.retryable
    assert content(shared / "film.bin") == PAYLOAD
