"""The source changes under the engine: old and new bytes never mix (DESIGN law 3; fault catalogue S4, S8, S9)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from engine import DownloadRequest, open_engine
from engine.errors import TargetExists
from tests.support.library import BIG_CHUNK, SMALL, check_claim, claims, content, parts_under, payload_of
from tests.support.origin import Asked, End, Reply, plain, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, run

OLD = payload_of(30 * BIG_CHUNK + 11, seed=21)
NEW = payload_of(30 * BIG_CHUNK + 11, seed=22)
SHORT = payload_of(20 * BIG_CHUNK + 3, seed=23)
LATER = "Wed, 04 Mar 2026 10:00:00 GMT"


def first(count: int, then: Reply) -> object:
    """The old bytes for so many requests, then another answer."""
    return lambda asked: Reply(body=OLD, etag='"old"') if asked.number <= count else then


@pytest.mark.parametrize(
    ("then", "truth"),
    [
        (Reply(body=NEW, etag='"new"'), NEW),
        (Reply(body=SHORT, etag='"new"'), SHORT),
        (Reply(body=SHORT, etag=""), SHORT),
        (Reply(body=NEW, etag="", last_modified=LATER), NEW),
        (Reply(body=NEW, etag='"new"', last_modified=LATER), NEW),
    ],
    ids=["etag", "etag and length", "length alone", "modified alone", "etag and modified"],
)
@pytest.mark.parametrize("good", [1, 2, 5, 9])
async def test_changed_between_two_spans(library: Path, then: Reply, truth: bytes, good: int) -> None:
    """S4, S9: within one attempt; the file is the new one, whole, and the old part is gone once it is."""
    async with serve(OLD, first(good, then)) as origin:  # type: ignore[arg-type]
        outcome = await run(library, DownloadRequest(url=origin.url()))
    assert_complete(outcome, truth)
    assert claims(library)[0].part.generation == 2


@pytest.mark.parametrize("truth", [NEW, SHORT], ids=["same length", "shorter"])
async def test_changed_between_two_runs(library: Path, truth: bytes) -> None:
    """S9: what was held before is of no use, and the old part stays until the new file is complete."""
    async with serve(OLD, first(6, Reply(status=404))) as origin:  # type: ignore[arg-type]
        request = DownloadRequest(url=origin.url())
        assert_failed(await run(library, request), "not_found", 404)
        assert assert_nothing_published(library, OLD) > 0
        (old_part,) = parts_under(library)
        origin.forget()
        changed = Reply(body=truth, etag='"new"')
        origin.script = lambda asked: changed if asked.number <= 6 else Reply(status=404)
        assert_failed(await run(library, request), "not_found", 404)
        assert old_part in parts_under(library), "the old bytes went before the new ones were complete"
        assert assert_nothing_published(library, truth) > 0
        origin.script = lambda _: changed
        outcome = await run(library, request)
    assert_complete(outcome, truth)
    assert outcome.stats.bytes_resumed > 0


async def test_it_changes_all_the_time(library: Path) -> None:
    """S9: a source that changes faster than it can be fetched ends in an error, not in a mixture."""

    def script(asked: Asked) -> Reply:
        return Reply(body=payload_of(len(OLD), seed=asked.number), etag=f'"{asked.number}"')

    async with serve(OLD, script) as origin:
        request = DownloadRequest(url=origin.url())
        assert_failed(await run(library, request), "changed")
        assert parts_under(library)
        origin.script = plain
        assert_complete(await run(library, request), OLD)


async def test_a_weak_etag_is_no_validator(library: Path) -> None:
    """S8: it may differ or stay without telling anything of the bytes; Last-Modified and length still count."""

    def script(asked: Asked) -> Reply:
        return Reply(etag=f'W/"{asked.number}"')

    async with serve(OLD, script) as origin:
        assert_complete(await run(library, DownloadRequest(url=origin.url())), OLD)


NAKED = Reply(etag="", last_modified="")


def naked_and_cut(asked: Asked) -> Reply:
    """No validator; the whole file is cut off in the middle, and then there is nothing any more."""
    if asked.number == 1:
        return NAKED
    return replace(NAKED, send=20 * BIG_CHUNK, end=End.RESET) if asked.number == 2 else Reply(status=404)


async def test_without_validators_the_held_bytes_are_compared(library: Path) -> None:
    """S8: two held chunks are fetched again and compared; equal: the rest is fetched and nothing else again."""
    async with serve(OLD, naked_and_cut) as origin:
        request = DownloadRequest(url=origin.url())
        assert_failed(await run(library, request), "not_found", 404)
        held = assert_nothing_published(library, OLD)
        chunk = claims(library)[0].part.chunk_bytes
        origin.script = lambda _: NAKED
        outcome = await run(library, request)
    assert_complete(outcome, OLD)
    assert outcome.stats.bytes_resumed == held
    assert 0 < outcome.stats.bytes_fetched - (len(OLD) - held) <= 2 * chunk


async def test_without_validators_other_bytes_are_noticed(library: Path) -> None:
    """S8, S10: the same length, no ETag, no date, other bytes."""
    async with serve(OLD, naked_and_cut) as origin:
        request = DownloadRequest(url=origin.url())
        assert_failed(await run(library, request), "not_found", 404)
        origin.serve(NEW)
        origin.script = lambda _: NAKED
        outcome = await run(library, request)
    assert_complete(outcome, NEW)


async def test_without_validators_and_ranges_it_begins_anew(library: Path) -> None:
    cut = Reply(etag="", last_modified="", ranges=False, send=10 * BIG_CHUNK, end=End.HANG)
    async with serve(OLD, lambda _: cut) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(DownloadRequest(url=origin.url()))
            await origin.until_sent(9 * BIG_CHUNK)
        origin.serve(NEW)
        origin.script = lambda _: Reply(etag="", last_modified="", ranges=False)
        assert_complete(await run(library, DownloadRequest(url=origin.url())), NEW)


async def test_without_ranges_but_with_a_validator_what_is_held_is_kept(library: Path) -> None:
    cut = Reply(ranges=False, send=10 * BIG_CHUNK, end=End.HANG)
    async with serve(OLD, lambda _: cut) as origin:
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(DownloadRequest(url=origin.url()))
            await origin.until_sent(9 * BIG_CHUNK)
        held = assert_nothing_published(library, OLD)
        assert held > 0
        origin.script = lambda _: Reply(ranges=False)
        outcome = await run(library, DownloadRequest(url=origin.url()))
    assert_complete(outcome, OLD)
    assert outcome.stats.bytes_resumed == held


async def test_the_old_file_stays_until_the_new_one_is_complete(library: Path) -> None:
    """Law 3, over a repair: what is published is replaced in one step, by its own entry alone."""
    async with serve(OLD) as origin:
        request = DownloadRequest(url=origin.url(), overwrite=True)
        done = await run(library, request)
        assert_complete(done, OLD)
        assert done.offline is not None
        with open(done.offline.path, "ab") as file:
            file.write(b"!")
        origin.forget()
        origin.script = lambda asked: Reply() if asked.number <= 5 else Reply(status=404)
        assert_failed(await run(library, request), "not_found", 404)
        assert content(done.offline.path) == OLD + b"!"
        (claim,) = claims(library)
        check_claim(library, claim, OLD)
        # Another generation between the published one and the one that replaces it.
        origin.serve(NEW)
        origin.script = plain
        assert_complete(await run(library, request), NEW)
    assert content(done.offline.path) == NEW


async def test_a_file_of_the_users_own_is_not_replaced(library: Path, tmp_path: Path) -> None:
    """D14: the user removed the finished file and put another one there, which may well get the same inode number."""
    target = tmp_path / "film.mkv"
    async with serve(OLD) as origin:
        request = DownloadRequest(url=origin.url(), destination=str(target))
        assert_complete(await run(library, request), OLD)
        target.unlink()
        target.write_bytes(b"my own film")
        with pytest.raises(TargetExists, match="not what was downloaded"):
            await run(library, request)
        assert target.read_bytes() == b"my own film"
