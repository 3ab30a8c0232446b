"""What a start must not do: believe what nobody checked, throw away what it could not look at, or not start at all."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import trio

from engine import DownloadRequest, Durability, State, open_engine
from engine.control.recovery import Recovery
from engine.control.settle import failed_mark
from engine.control.verify import Health
from engine.errors import BadRecord
from engine.files.filesystem import FileSystem
from engine.model.records import PartRecord
from engine.model.states import Event
from engine.store.state_store import StateStore
from tests.store.helpers import add_running, commit, open_store
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, claims, content, hash_of, payload_of, small
from tests.support.origin import Asked, Reply, plain, serve
from tests.support.run import assert_complete, assert_failed, run
from tests.whole.test_whole_reboot import NextBoot, half, spoil

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=43)
SHA256 = hashlib.sha256(PAYLOAD).hexdigest()
RELAXED = Durability.RELAXED


class CannotOpen(NextBoot):
    """The first opening of a media file fails."""

    def __init__(self, number: int) -> None:
        self.number = number

    def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
        number, self.number = self.number, 0
        if number:
            raise OSError(number, os.strerror(number))
        return super().open_existing(folder_fd, name, write=write)


def never_clean(patch: pytest.MonkeyPatch) -> None:
    """Sessions that end from now on do so as if they were cut off."""
    close = StateStore.close
    patch.setattr(StateStore, "close", lambda store, *, clean=True: close(store, clean=False))


def start_and_cut_off(library: Path, **changes: object) -> None:
    """The FAILED entry is asked for again with other expectations, starts, and the process ends."""
    store = StateStore.open(str(library), SMALL, FileSystem(), now=1.0)
    (entry,) = store.list()
    entry = store.update(entry.id, entry.epoch, **changes)
    if entry.state is State.FAILED:
        entry = store.transition(entry.id, Event.RETRY, epoch=entry.epoch, now=2.0)
    store.transition(entry.id, Event.START, epoch=entry.epoch, now=2.0)
    store.close(clean=False)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"expect": {"sha256": "00" * 32}}, "integrity"),
        ({"expect": {"blake3": "00" * 32}}, "integrity"),
        ({"expected_length": len(PAYLOAD) + 1}, "integrity"),
        ({"expect": {"sha256": SHA256, "blake3": hash_of(PAYLOAD)}, "expected_length": len(PAYLOAD)}, ""),
    ],
)
async def test_law_2_what_is_expected_by_now_is_checked_before_publishing_is_finished(
    library: Path, tmp_path: Path, changes: dict[str, object], code: str
) -> None:
    target = tmp_path / "film.bin"

    def taken(asked: Asked) -> Reply:
        if asked.number == 3:
            target.write_bytes(b"mine")
        return Reply()

    async with serve(PAYLOAD, taken) as origin:
        assert_failed(await run(library, DownloadRequest(url=origin.url(), destination=str(target))), "target_exists")
        target.unlink()
        start_and_cut_off(library, **changes)
        async with open_engine(library, config=SMALL, resume=False) as engine:
            (entry,) = await engine.list()
            finished = [found.what for found in engine.recovered] == ["publishing was finished"]
            offline = await engine.offline_entry(entry.id)
        assert finished == (code == "")
        assert entry.state is (State.PENDING if code else State.COMPLETED)
        assert target.exists() == (code == "")
        if offline is not None:
            assert offline.digests == {"sha256": SHA256}
            assert content(target) == PAYLOAD
            return
        async with open_engine(library, config=SMALL) as engine:
            assert (await engine._manager.wait(entry.id)).state is State.FAILED
            failed = await engine.get(entry.id)
    assert failed.last_error is not None
    assert failed.last_error.code == code
    assert not target.exists()


async def test_law_1_publishing_is_not_finished_with_a_chunk_missing(library: Path, tmp_path: Path) -> None:
    """A reboot showed one chunk to be bad: it is fetched again first."""
    target = tmp_path / "film.bin"

    def taken(asked: Asked) -> Reply:
        if asked.number == 3:
            target.write_bytes(b"mine")
        return Reply()

    async with serve(PAYLOAD, taken) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(target), durability=RELAXED)
        assert_failed(await run(library, request), "target_exists")
        target.unlink()
        start_and_cut_off(library)
        spoil(claims(library)[0].path, 5 * CHUNK)
        origin.script = plain
        outcome = await run(library, request, files=NextBoot())
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == len(PAYLOAD) - CHUNK


@pytest.mark.parametrize("step", ["transition", "clear_chunks", "mark_synced"])
async def test_law_6_a_bad_finished_file_is_found_again_after_a_crash_at_any_step(
    library: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=RELAXED)
        done = await run(library, request)
        assert done.offline is not None
        spoil(done.offline.path, 5 * CHUNK)

        def dies(*_: object, **__: object) -> None:
            raise RuntimeError("the recovery ends here")

        with monkeypatch.context() as patch:
            patch.setattr(StateStore, step, dies)
            with pytest.raises(RuntimeError, match="ends here"):
                await run(library, request, files=NextBoot())
        async with open_engine(library, config=SMALL, files=NextBoot(), resume=False) as engine:
            assert (await engine.get("film")).state is State.PENDING
            assert 5 not in [
                index for first, n in claims_of(engine._services.store) for index in range(first, first + n)
            ]
        assert_complete(await run(library, request, files=NextBoot()), PAYLOAD)


def claims_of(store: StateStore) -> list[tuple[int, int]]:
    return store.held_runs("film", 0, -(-len(PAYLOAD) // CHUNK))


class FirstSyncFails(FileSystem):
    def __init__(self) -> None:
        self.failed = False

    def sync_data(self, fd: int) -> None:
        if not self.failed:
            self.failed = True
            raise OSError(errno.EIO, "the pages are dropped")
        super().sync_data(fd)


async def test_d6_a_failed_sync_is_not_tried_again_and_believed(library: Path) -> None:
    config = small(settle_interval_s=0.02)
    mark = failed_mark(FileSystem().boot_id())
    async with serve(PAYLOAD) as origin:

        def request(name: str) -> DownloadRequest:
            return DownloadRequest(url=origin.url(), id=name, durability=RELAXED)

        async with open_engine(library, config=config, files=FirstSyncFails()) as engine:
            store = engine._services.store
            await (await engine.offline(request("a"))).wait()
            await until(lambda: store.unsynced() == [("a", 0, mark)])
            await (await engine.offline(request("b"))).wait()
            await until(lambda: store.unsynced() == [("a", 0, mark)])  # a later round had its turn
        async with open_engine(library, config=config) as engine:  # the same boot: still not
            store = engine._services.store
            await (await engine.offline(request("c"))).wait()
            await until(lambda: store.unsynced() == [("a", 0, mark)])
            assert engine.recovered == ()
        async with open_engine(library, config=config, files=NextBoot()) as engine:  # hashed again
            assert engine._services.store.unsynced() == []
            assert (await engine.get("a")).state is State.COMPLETED


async def until(condition: Callable[[], bool]) -> None:
    """Until the condition holds; bounded."""
    with trio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # what is in the store has no event
            await trio.sleep(0.01)


async def test_one_damaged_record_does_not_keep_others_from_being_synced(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parts = StateStore.parts

    def damaged(store: StateStore, entry_id: str) -> tuple[PartRecord, ...]:
        if entry_id == bad:
            raise BadRecord("damaged")
        return parts(store, entry_id)

    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            for name in "ab":
                await (await engine.offline(DownloadRequest(url=origin.url(), id=name, durability=RELAXED))).wait()
            bad, good = [name for name, _, _ in engine._services.store.unsynced()]
        monkeypatch.setattr(StateStore, "parts", damaged)
        async with open_engine(library, config=small(settle_interval_s=0.02)) as engine:
            store = engine._services.store
            await until(lambda: [name for name, _, _ in store.unsynced()] == [bad])
    assert good != bad


async def test_a_linked_and_read_only_finished_file_is_not_lost(library: Path, tmp_path: Path) -> None:
    """The user may link it into another library and take the right to write away: its bytes are the same."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=RELAXED)
        done = await run(library, request)
        assert done.offline is not None
        os.link(done.offline.path, tmp_path / "linked.bin")
        os.chmod(done.offline.path, stat.S_IRUSR)
        async with open_engine(library, config=SMALL, files=OnlyReading()) as engine:
            assert [found.health for found in await engine.validate_downloads()] == [Health.VALID]
        async with open_engine(library, config=SMALL, files=OnlyReading()) as engine:
            assert engine.recovered == ()
            assert (await engine.get("film")).state is State.COMPLETED
            assert engine._services.store.unsynced() == []


class OnlyReading(NextBoot):
    """An ordinary user's view of a read-only file (root may write to it)."""

    def open_existing(self, folder_fd: int, name: str, *, write: bool) -> int:
        if write:
            raise PermissionError(errno.EACCES, "read-only")
        return super().open_existing(folder_fd, name, write=write)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES, errno.ENOMEM, errno.EIO])
async def test_a_finished_file_that_cannot_be_opened_now_stays_and_is_looked_at_later(
    library: Path, number: int
) -> None:
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=RELAXED)
        done = await run(library, request)
        assert done.offline is not None
        (before,) = claims(library)
        async with open_engine(library, config=SMALL, files=CannotOpen(number), resume=False) as engine:
            assert ["could not be looked at" in found.what for found in engine.recovered] == [True]
            assert (await engine.get("film")).state is State.COMPLETED
        assert claims(library)[0].part == before.part
        spoil(done.offline.path, 5 * CHUNK)
        async with open_engine(library, config=SMALL, files=NextBoot(), resume=False) as engine:
            assert (await engine.get("film")).state is State.PENDING, "it was not looked at again"


@pytest.mark.parametrize("durability", list(Durability))
async def test_law_1_an_unfinished_part_that_could_not_be_opened_is_not_believed_either(
    library: Path, monkeypatch: pytest.MonkeyPatch, durability: Durability
) -> None:
    """The attempt of the same start hashes it; and so does the next start, after a clean end too."""
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film", durability=durability)
        with monkeypatch.context() as patch:
            never_clean(patch)
            assert_failed(await run(library, request), "not_found", 404)
        (before,) = claims(library)
        spoil(before.path, 1 * CHUNK)
        async with open_engine(library, config=SMALL, files=CannotOpen(errno.EMFILE), resume=False) as engine:
            assert ["could not be looked at" in found.what for found in engine.recovered] == [True]
        assert claims(library)[0].runs == before.runs
        if durability is RELAXED:
            async with open_engine(library, config=SMALL, files=NextBoot(), resume=False) as engine:
                assert ["1 chunks had not" in found.what for found in engine.recovered] == [True]
            files: FileSystem = NextBoot()
        else:
            files = CannotOpen(errno.EMFILE)
        origin.script = plain
        outcome = await run(library, request, files=files)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == before.held_bytes - CHUNK


@pytest.mark.parametrize("mounted", [False, True], ids=["no folder", "another disk"])
async def test_a_disk_that_is_away_at_the_start_loses_nothing(library: Path, tmp_path: Path, mounted: bool) -> None:
    folder, away = tmp_path / "usb", tmp_path / "away"
    folder.mkdir()

    class OtherDisk(NextBoot):
        def stat_path(self, path: str, *, follow: bool = True) -> os.stat_result | None:
            info = super().stat_path(path, follow=follow)
            if info is None or path != str(folder):
                return info
            fields = list(info)
            fields[stat.ST_DEV] += 1
            return os.stat_result(fields)

    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(folder / "film.bin"), durability=RELAXED)
        assert_failed(await run(library, request), "not_found", 404)
        (before,) = claims(library)
        folder.rename(away)
        if mounted:
            folder.mkdir()
        async with open_engine(library, config=SMALL, files=OtherDisk(), resume=False) as engine:
            assert ["could not be looked at" in found.what for found in engine.recovered] == [True]
        if mounted:
            folder.rmdir()
        away.rename(folder)
        assert claims(library)[0].runs == before.runs
        origin.script = plain
        outcome = await run(library, request, files=NextBoot())
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == before.held_bytes


def test_d23_suspects_of_an_older_generation_are_nobodys(library: Path) -> None:
    """Its file is not the part's any more."""
    store = open_store(str(library))
    record = add_running(store)
    store.commit_chunks([commit("a", [1])])
    store.reset_part("a", 1, msgspec.structs.replace(record, generation=record.generation + 1))
    store.close(clean=False)
    files = NextBoot()
    store = StateStore.open(str(library), SMALL, files, now=200.0)
    try:
        assert store.session.recheck
        found = Recovery(store, files, 200.0).run()
        assert [recovered.what for recovered in found] == [
            "was running when the process ended; it continues where it was"
        ]
        assert store.suspects() == []
    finally:
        store.close()
