"""Rot inside the store, met by a whole engine (L10): it opens, tells it, and loses no more than what was damaged."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine import DownloadRequest, Durability, State, open_engine
from engine.control.verify import Health
from engine.model.chunks import CVS_PER_PAGE
from engine.store.codec import Table
from tests.store.helpers import spoil as spoil_records
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, claims, payload_of
from tests.support.origin import Asked, Reply, plain, serve
from tests.support.run import assert_complete, assert_failed, run
from tests.whole.test_whole_reboot import NextBoot, half, spoil
from tests.whole.test_whole_recovery import start_and_cut_off

PAYLOAD = payload_of(30 * BIG_CHUNK + 11, seed=43)
RELAXED = Durability.RELAXED


async def test_l10_a_damaged_part_record_of_a_running_entry_does_not_stop_the_start(library: Path) -> None:
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        assert_failed(await run(library, request), "not_found", 404)
        start_and_cut_off(library)
        assert spoil_records(str(library), Table.PARTS)
        origin.script = plain
        outcome = await run(library, request)
    assert outcome.recovered[0] == "the record of its chunks was damaged; it begins anew"
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.bytes_resumed == 0


async def test_l10_damaged_cvs_cost_their_chunks_only(library: Path) -> None:
    """A page of CVs whose chunks are all held: nothing is written to it any more, so that only the end reads it."""

    def most(asked: Asked) -> Reply:
        return Reply() if asked.number <= 12 else Reply(status=404)

    async with serve(PAYLOAD, most) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        assert_failed(await run(library, request), "not_found", 404)
        (claim,) = claims(library)
        first = next(at for at, count in claim.runs if count >= 2 * CVS_PER_PAGE)
        page = (-(-first // CVS_PER_PAGE)).to_bytes(4, "big")
        assert len(spoil_records(str(library), Table.CVS, lambda key: key.endswith(page))) == 1
        origin.script = plain
        outcome = await run(library, request)
    assert_complete(outcome, PAYLOAD)
    assert outcome.stats.attempts == 2
    assert outcome.stats.bytes_fetched == len(PAYLOAD) - claim.held_bytes + CVS_PER_PAGE * CHUNK


async def test_l10_a_damaged_entry_is_told_and_left_out(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        assert_complete(await run(library, DownloadRequest(url=origin.url(), id="a", durability=RELAXED)), PAYLOAD)
        assert spoil_records(str(library), Table.ENTRIES)
        async with open_engine(library, config=SMALL, files=NextBoot()) as engine:
            assert [found.id for found in engine.recovered] == ["a"]
            assert await engine.list() == []
            assert await (await engine.offline(DownloadRequest(url=origin.url("/other.bin"), id="b"))).wait()


async def test_l10_damaged_indexes_are_made_anew_at_the_start(library: Path) -> None:
    async with serve(PAYLOAD, half) as origin:
        request = DownloadRequest(url=origin.url(), id="film")
        assert_failed(await run(library, request), "not_found", 404)
        start_and_cut_off(library)
        assert spoil_records(str(library), Table.BY_STATE)
        assert spoil_records(str(library), Table.BY_SEQUENCE)
        async with open_engine(library, config=SMALL, resume=False) as engine:
            assert [entry.id for entry in await engine.list(state=State.PENDING)] == ["film"]


@pytest.mark.parametrize("harm", [False, True])
async def test_l10_a_finished_file_whose_part_record_is_damaged_is_compared_as_a_whole(
    library: Path, harm: bool
) -> None:
    async with serve(PAYLOAD) as origin:
        done = await run(library, DownloadRequest(url=origin.url(), id="film"))
        assert done.offline is not None
        assert spoil_records(str(library), Table.PARTS)
        if harm:
            spoil(done.offline.path, 5 * CHUNK)
        async with open_engine(library, config=SMALL) as engine:
            (found,) = await engine.validate_downloads()
    assert found.health is (Health.CORRUPT if harm else Health.VALID)
    assert found.bytes_checked == len(PAYLOAD)
