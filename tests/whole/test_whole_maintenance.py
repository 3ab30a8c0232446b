"""Clean-up: orphans both ways, stale entries, leftovers; never a user's file, never one that an entry needs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio
from msgspec.structs import replace

from engine import DownloadFailed, DownloadRequest, Engine, State, open_engine
from engine.control.maintenance import DAY_S
from engine.control.orphans import Action, Finding, What, remove_orphan
from engine.files.names import part_name
from engine.model.events import MaintenanceDone
from engine.transfer.setup_part import entry_tag
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, content, files_under, parts_under, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, serve
from tests.support.upkeep import HOUR_S, actions, age, upkeep_of

PAYLOAD = payload_of(60 * CHUNK + 5, seed=81)
TAG = "0123456789abcdef"
EAGER = small(orphan_grace_s=0.0)


def old_file(path: Path, data: bytes = b"x" * 5000) -> Path:
    """A file that nobody touched for two hours."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    age(path, 2 * HOUR_S)
    return path


async def failed(engine: Engine, origin: Origin, entry_id: str = "film", **fields: object) -> Path:
    """An entry that fails half-way; returns the path of its unfinished file."""

    def script(asked: Asked) -> Reply:
        return Reply(status=404) if (asked.start or 0) >= 20 * CHUNK else Reply(send=20 * CHUNK, end=End.CLOSE)

    origin.script = script
    with pytest.raises(DownloadFailed):
        request = DownloadRequest(url=origin.url(entry_id), id=entry_id, **fields)  # type: ignore[arg-type]
        await (await engine.offline(request)).wait()
    origin.script = lambda _: Reply()
    [part] = await engine.parts(entry_id)
    return Path(part.folder, part.part_name)


async def make_old(engine: Engine, entry_id: str, days: float) -> None:
    """Set the entry's last change back by so many days."""
    entry = await engine.get(entry_id)
    services = engine._services
    await services.write(services.store.update, entry_id, entry.epoch, updated_at=entry.updated_at - days * DAY_S)


async def test_orphans_go_and_all_else_stays(library: Path) -> None:
    files = library / "files"
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="film"))).wait()
        age(done.path, 2 * HOUR_S)
        orphan = old_file(files / part_name(TAG, 1))
        young = files / part_name(TAG, 2)
        young.write_bytes(b"y" * 100)
        kept = {
            old_file(files / name)
            for name in ("mine.flac", ".oe-notes.part", f".oe-{TAG}-x.part", f".oe-{TAG}-1.part.bak", "a.part")
        }
        link = files / part_name(TAG, 3)
        link.symlink_to(kept.copy().pop())
        (files / part_name(TAG, 4)).mkdir()
        report = await upkeep_of(engine).maintenance.clean(dry_run=True)
        assert actions(report.findings)[What.ORPHAN_PART, orphan.name] is Action.WOULD_REMOVE
        assert report.bytes_reclaimed > 0
        assert report.files_removed == 0
        assert orphan.exists()

        report = await upkeep_of(engine).maintenance.clean()
        found = actions(report.findings)
        assert found[What.ORPHAN_PART, orphan.name] is Action.REMOVED
        assert found[What.ORPHAN_PART, young.name] is Action.KEPT
        assert {name for what, name in found if what is What.UNKNOWN_FILE} == {path.name for path in kept}
        assert {found[What.UNKNOWN_FILE, path.name] for path in kept} == {Action.REPORTED}
        assert not orphan.exists()
        assert young.exists()
        assert all(path.exists() for path in kept)
        assert link.is_symlink()
        assert content(done.path) == PAYLOAD
        assert report.files_removed == 1
        health = await upkeep_of(engine).health()
        assert (health.files_removed, health.bytes_reclaimed) == (1, report.bytes_reclaimed)


async def test_in_folders_of_the_callers_own_another_library_may_have_files_too(library: Path, tmp_path: Path) -> None:
    folder = tmp_path / "music"
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        request = DownloadRequest(url=origin.url(), id="film", destination=f"{folder}/")
        await (await engine.offline(request)).wait()
        unknown = old_file(folder / part_name(TAG, 1))
        orphan = old_file(folder / part_name(entry_tag("film"), 7))
        mine = old_file(folder / "mine.flac")
        report = await upkeep_of(engine).maintenance.gc()
        assert actions(report.findings) == {
            (What.ORPHAN_PART, orphan.name): Action.REMOVED,
            (What.ORPHAN_PART, unknown.name): Action.REPORTED,
        }
        assert unknown.exists()
        assert not orphan.exists()
        report = await upkeep_of(engine).maintenance.gc(everywhere=True)
        assert actions(report.findings) == {(What.ORPHAN_PART, unknown.name): Action.REMOVED}
        assert mine.exists()
        assert not unknown.exists()


async def test_what_runs_keeps_its_files_while_clean_up_goes_on_and_on(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=EAGER) as engine:
        origin.rate = 3_000_000.0
        cleaned = 0

        async def clean() -> None:
            nonlocal cleaned
            while True:
                report = await upkeep_of(engine).maintenance.clean()
                assert [one for one in report.findings if one.action is Action.REMOVED] == []
                cleaned += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(clean)
            downloads = [
                await engine.offline(DownloadRequest(url=origin.url(f"{number}.bin"), id=f"{number}"))
                for number in range(8)
            ]
            for download in downloads:
                assert content((await download.wait()).path) == PAYLOAD
            nursery.cancel_scope.cancel()
        assert cleaned > 3


async def test_the_unfinished_file_of_an_entry_that_waits_stays(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        async with open_engine(library, config=SMALL) as engine:
            origin.rate = 500_000.0
            await engine.offline(DownloadRequest(url=origin.url(), id="film"))
            await origin.until_sent(20 * CHUNK)
        [part] = parts_under(library / "files")
        age(library / "files" / part, 9 * HOUR_S)
        async with open_engine(library, config=SMALL, resume=False) as engine:
            report = await upkeep_of(engine).maintenance.clean()
            assert report.findings == ()
        assert parts_under(library / "files") == {part}


async def test_records_without_a_file_are_told(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="film"))).wait()
        unfinished = await failed(engine, origin, "other")
        os.unlink(done.path)
        os.unlink(unfinished)
        report = await upkeep_of(engine).maintenance.clean()
        assert {(one.what, one.entry_id, one.action) for one in report.findings} == {
            (What.MISSING_FILE, "film", Action.REPORTED),
            (What.MISSING_PART, "other", Action.REPORTED),
        }
        assert (await engine.get("film")).state is State.COMPLETED


async def test_what_failed_long_ago_holds_nothing_any_more(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        part = await failed(engine, origin)
        upkeep = upkeep_of(engine)
        await make_old(engine, "film", 29.0)
        assert (await upkeep.maintenance.clean()).findings == ()
        await make_old(engine, "film", 2.0)
        dry = await upkeep.maintenance.clean(dry_run=True)
        assert [one.action for one in dry.findings] == [Action.WOULD_REMOVE]
        assert part.exists()
        report = await upkeep.maintenance.clean()
        assert [(one.what, one.action) for one in report.findings] == [(What.STALE_PART, Action.REMOVED)]
        assert report.bytes_reclaimed == dry.bytes_reclaimed > 0
        assert not part.exists()
        assert (await engine.get("film")).state is State.FAILED
        assert (await upkeep.maintenance.clean()).findings == ()  # once is enough

        done = await (await engine.offline(DownloadRequest(url=origin.url("film"), id="film"))).wait()
        assert content(done.path) == PAYLOAD


async def test_the_record_of_what_failed_long_ago_goes_when_asked(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        await failed(engine, origin)
        await make_old(engine, "film", 31.0)
        report = await upkeep_of(engine).maintenance.clean(remove_stale=True)
        assert report.entries_removed == 1
        assert await engine.list() == []
        assert files_under(library / "files") == set()


@pytest.mark.parametrize("days", [0.0, 1000.0])
async def test_what_failed_is_kept_as_long_as_is_configured(library: Path, days: float) -> None:
    config = small(stale_entry_days=days)
    async with serve(PAYLOAD) as origin, open_engine(library, config=config) as engine:
        part = await failed(engine, origin)
        await make_old(engine, "film", 900.0)
        assert (await upkeep_of(engine).maintenance.clean()).findings == ()
        assert part.exists()


async def test_bug_16_a_clock_that_was_set_back_makes_nothing_stale(library: Path) -> None:
    """Origin bug 16: ages from `now - updated_at` in unsigned numbers."""
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        part = await failed(engine, origin)
        await make_old(engine, "film", -400.0)
        os.utime(part, (2**33, 2**33))
        orphan = library / "files" / part_name(TAG, 1)
        orphan.write_bytes(b"x")
        os.utime(orphan, (2**33, 2**33))
        await upkeep_of(engine).maintenance.clean()
        assert part.exists()
        assert orphan.exists()
        health = await upkeep_of(engine).health()
        assert health.active_s_mean is None


async def test_what_a_cut_off_repair_left_goes(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        done = await (await engine.offline(DownloadRequest(url=origin.url(), id="film"))).wait()
        [record] = await engine.parts("film")
        name = part_name(entry_tag("film"), 2)
        entry, services = await engine.get("film"), engine._services
        await services.write(services.store.put_part, "film", entry.epoch, replace(record, superseded=(name,)))
        (library / "files" / name).write_bytes(PAYLOAD)
        report = await upkeep_of(engine).maintenance.clean()
        assert actions(report.findings) == {(What.LEFTOVER, name): Action.REMOVED}
        assert files_under(library / "files") == {os.path.basename(done.path)}
        assert (await engine.parts("film"))[0].superseded == ()


async def test_a_store_that_was_never_finished_goes(library: Path) -> None:
    async with open_engine(library, config=SMALL) as engine:
        left = library / "store.tmp-0123"
        old_file(left / "data.mdb")
        age(left, 2 * HOUR_S)
        report = await upkeep_of(engine).maintenance.clean()
        assert actions(report.findings) == {(What.TEMPORARY, left.name): Action.REMOVED}
        assert not left.exists()


async def test_clean_up_is_told_and_scheduled(library: Path) -> None:
    config = small(maintenance_delay_s=0.01, maintenance_interval_s=0.05)
    async with open_engine(library, config=config) as engine:
        with engine.events() as events:
            orphan = old_file(library / "files" / part_name(TAG, 1))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(upkeep_of(engine).run)
                removed = 0
                rounds = 0
                async for event in events:
                    assert isinstance(event, MaintenanceDone)
                    removed += event.files_removed
                    rounds += 1
                    if removed and rounds >= 3:
                        break
                nursery.cancel_scope.cancel()
        assert removed == 1
        assert not orphan.exists()


async def test_health_is_added_up_from_the_records(library: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=SMALL) as engine:
        for number in range(3):
            request = DownloadRequest(url=origin.url(f"{number}"), id=f"{number}", scope="me")
            await (await engine.offline(request)).wait()
        await failed(engine, origin)
        health = await upkeep_of(engine).health()
        assert (health.counts["completed"], health.counts["failed"], health.entries) == (3, 1, 4)
        assert health.success_rate == 0.75
        assert health.retry_rate is not None
        assert health.disk_bytes == {"me": 3 * len(PAYLOAD), "": len(PAYLOAD)}
        assert health.bytes_fetched >= 3 * len(PAYLOAD)
        assert health.oldest_waiting_s is None
        assert health.active_s_mean is not None
        assert health.active_s_mean > 0.0
        assert BIG_CHUNK > health.bytes_wasted >= 0


@pytest.mark.parametrize("everywhere", [False, True])
async def test_a_folder_of_two_spellings_is_one_folder(library: Path, tmp_path: Path, everywhere: bool) -> None:
    """A paused entry's part is seen under the name of the folder that another entry knows it by."""
    (tmp_path / "disk" / "music").mkdir(parents=True)
    (tmp_path / "mnt").symlink_to(tmp_path / "disk")
    real, linked = tmp_path / "disk" / "music", tmp_path / "mnt" / "music"
    async with serve(PAYLOAD) as origin, open_engine(library, config=EAGER) as engine:
        request = DownloadRequest(url=origin.url("done.bin"), id="done", destination=f"{real}/")
        await (await engine.offline(request)).wait()
        part = await failed(engine, origin, destination=f"{linked}/")
        orphan = old_file(real / part_name(entry_tag("done"), 7))
        earlier = old_file(real / part_name(entry_tag("film"), 7))
        age(part, 2 * HOUR_S)
        report = await engine.gc(everywhere=everywhere)
        assert actions(report.findings) == {
            (What.ORPHAN_PART, orphan.name): Action.REMOVED,
            (What.ORPHAN_PART, earlier.name): Action.REMOVED,
        }
        assert report.files_removed == 2
        assert part.exists()
        assert (await engine.gc(everywhere=everywhere)).findings == ()
        await engine.retry("film")
        with trio.fail_after(20):
            assert (await engine._manager.wait("film")).state is State.COMPLETED
        assert content(real / "film") == PAYLOAD


async def test_the_last_look_at_an_orphan_knows_it_by_any_spelling(library: Path, tmp_path: Path) -> None:
    """The file was asked for, by another path to its folder, when it had been found already."""
    (tmp_path / "disk").mkdir()
    (tmp_path / "mnt").symlink_to(tmp_path / "disk")
    async with serve(PAYLOAD) as origin, open_engine(library, config=EAGER) as engine:
        part = await failed(engine, origin, destination=f"{tmp_path}/mnt/")
        path = str(tmp_path / "disk" / part.name)
        found = Finding(what=What.ORPHAN_PART, path=path, why="it looked so", action=Action.WOULD_REMOVE)
        assert (await remove_orphan(engine._services, found)).action is Action.KEPT
        assert part.exists()


async def test_the_librarys_own_folder_by_another_spelling_has_no_strangers(library: Path, tmp_path: Path) -> None:
    async with serve(PAYLOAD) as origin, open_engine(library, config=EAGER) as engine:
        (library / "files").mkdir(exist_ok=True)
        (tmp_path / "mnt").symlink_to(library / "files")
        request = DownloadRequest(url=origin.url("done.bin"), id="done", destination=f"{tmp_path}/mnt/")
        done = await (await engine.offline(request)).wait()
        age(done.path, 2 * HOUR_S)
        assert (await engine.gc()).findings == ()
