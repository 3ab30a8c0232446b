"""Many small files at once: few transactions, shared syncs, and the same promises for each as for a large one."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, Durability, InvalidRequest, State, StateChanged, open_engine
from engine.control.manager import Manager
from engine.errors import DownloadFailed
from engine.files.filesystem import FileSystem
from engine.model.records import PartPhase
from tests.support.library import CHUNK, claims, content, files_under, hash_of, parts_under, payload_of, small
from tests.support.origin import Asked, Origin, Reply, serve

CONFIG = small(entries_at_once=16)


class CountingFiles(FileSystem):
    """Counts what is synced."""

    def __init__(self) -> None:
        super().__init__()
        self.syncs = 0

    def sync(self, fd: int) -> None:
        self.syncs += 1
        super().sync(fd)


class RecordingFiles(FileSystem):
    """Tells what was synced, and when a file got its name."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[str] = []

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.steps.append("folder synced" if stat.S_ISDIR(os.fstat(fd).st_mode) else "file synced")

    def rename_noreplace(self, folder_fd: int, old: str, new: str) -> None:
        super().rename_noreplace(folder_fd, old, new)
        self.steps.append("named")


def requests(origin: Origin, count: int, durability: Durability = Durability.STRICT) -> list[DownloadRequest]:
    return [
        DownloadRequest(url=f"{origin.url()}?n={number}", id=f"e{number}", durability=durability)
        for number in range(count)
    ]


@pytest.mark.parametrize("durability", list(Durability))
async def test_every_one_of_many_is_whole_verified_and_named(library: Path, durability: Durability) -> None:
    payload = payload_of(CHUNK - 7)
    async with serve(payload) as origin, open_engine(library, config=CONFIG) as engine:
        downloads = await engine.offline_many(requests(origin, 120, durability))
        done = [await download.wait() for download in downloads]
    assert [offline.id for offline in done] == [f"e{number}" for number in range(120)]
    assert len({offline.path for offline in done}) == 120
    for offline in done:
        assert content(offline.path) == payload
        assert offline.blake3 == hash_of(payload)
    assert parts_under(library) == set()
    for claim in claims(library, CONFIG):
        assert claim.entry.state is State.COMPLETED
        assert claim.part.phase is PartPhase.PUBLISHED
        assert claim.runs == ((0, 1),)
        assert len(claim.entry.attempts) == 1
        assert claim.entry.attempts[0].bytes_fetched == len(payload)
        assert (claim.part.unsynced_boot == "") is (durability is Durability.STRICT)


async def test_publishing_shares_the_syncs_of_the_folder(library: Path) -> None:
    files = CountingFiles()
    async with serve(payload_of(CHUNK)) as origin, open_engine(library, config=CONFIG, files=files) as engine:
        downloads = await engine.offline_many(requests(origin, 200, Durability.RELAXED))
        for download in downloads:
            await download.wait()
    assert files.syncs < 200, "relaxed files are not synced, and their folder not once for each"


@pytest.mark.parametrize("durability", list(Durability))
async def test_a_small_file_is_synced_before_it_has_its_name_and_its_name_before_it_is_complete(
    library: Path, durability: Durability
) -> None:
    """Laws 1 and 2: its bytes when it is strict, its name always."""
    files = RecordingFiles()
    async with serve(payload_of(CHUNK)) as origin, open_engine(library, config=CONFIG, files=files) as engine:
        files.steps.clear()
        with engine.events("e0") as events:
            await engine.offline_many(requests(origin, 1, durability))
            async for event in events:
                if isinstance(event, StateChanged) and event.state is State.COMPLETED:
                    files.steps.append("complete")
                    break
    steps = files.steps[: files.steps.index("complete")]
    named = steps.index("named")
    assert ("file synced" in steps[:named]) is (durability is Durability.STRICT)
    assert "folder synced" in steps[named:]


async def test_asking_for_many_takes_up_those_that_are_there(library: Path) -> None:
    async with serve(payload_of(CHUNK)) as origin, open_engine(library, config=CONFIG) as engine:
        first = await engine.offline(requests(origin, 1)[0])
        await first.wait()
        downloads = await engine.offline_many([*requests(origin, 5), *requests(origin, 2)])
        assert [download.id for download in downloads] == ["e0", "e1", "e2", "e3", "e4", "e0", "e1"]
        for download in downloads:
            await download.wait()
        assert len(await engine.list()) == 5
    assert len({asked.target for asked in origin.asked}) == 5
    assert len(origin.asked) == 5


async def test_nothing_is_added_when_one_request_is_not_valid_or_two_aim_at_one_path(library: Path) -> None:
    async with serve(payload_of(10)) as origin, open_engine(library, config=CONFIG) as engine:
        good = requests(origin, 3)
        with pytest.raises(InvalidRequest, match="http"):
            await engine.offline_many([*good, DownloadRequest(url="ftp://h/x")])
        same = str(library / "same.bin")
        twice = [DownloadRequest(url=origin.url(), id=name, destination=same) for name in ("a", "b")]
        with pytest.raises(InvalidRequest, match=r"same\.bin"):
            await engine.offline_many([*good, *twice])
        assert await engine.list() == []
        assert await engine.offline_many([]) == []


async def test_one_that_fails_does_not_stop_the_others(library: Path) -> None:
    def script(asked: Asked) -> Reply:
        return Reply(status=404) if asked.target.endswith("n=3") else Reply()

    async with serve(payload_of(CHUNK), script) as origin, open_engine(library, config=CONFIG) as engine:
        downloads = await engine.offline_many(requests(origin, 8))
        for number, download in enumerate(downloads):
            if number == 3:
                with pytest.raises(DownloadFailed) as caught:
                    await download.wait()
                assert caught.value.status == 404
            else:
                await download.wait()


@pytest.mark.parametrize(
    ("expect", "length"),
    [({"sha256": "0" * 64}, None), ({"blake3": "0" * 64}, None), ({}, 11)],
)
async def test_expectations_of_a_small_file_are_checked_before_it_has_its_name(
    library: Path, expect: dict[str, str], length: int | None
) -> None:
    async with serve(payload_of(CHUNK)) as origin, open_engine(library, config=CONFIG) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url(), expect=expect, expected_length=length))
        with pytest.raises(DownloadFailed) as caught:
            await download.wait()
        assert caught.value.cause_code == "integrity"
    assert {name for name in files_under(library) if name.startswith("files/") and not name.endswith(".part")} == set()


async def test_a_small_file_that_is_cut_short_is_tried_again(library: Path) -> None:
    payload = payload_of(CHUNK)

    def script(asked: Asked) -> Reply:
        return Reply(send=100) if asked.number == 1 else Reply()

    async with serve(payload, script) as origin, open_engine(library, config=CONFIG) as engine:
        download = await engine.offline(DownloadRequest(url=origin.url()))
        offline = await download.wait()
        assert content(offline.path) == payload
        assert download.stats.attempts == 2
    assert parts_under(library) == set()


async def test_who_gives_up_leaves_none_without_its_place(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One is there already and is taken up, which waits; the new ones behind it run all the same."""
    payload = payload_of(CHUNK - 7)
    async with serve(payload) as origin, open_engine(library, config=CONFIG) as engine:
        asked = requests(origin, 6)
        await (await engine.offline(asked[0])).wait()
        given_up = trio.Event()

        async def endless(*_: object) -> None:
            given_up.set()
            await trio.sleep_forever()

        monkeypatch.setattr(Manager, "_ask_completed", endless)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(engine.offline_many, asked)
            await given_up.wait()
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            for request in asked[1:]:
                assert request.id is not None
                assert content((await engine.wait(request.id)).path) == payload
