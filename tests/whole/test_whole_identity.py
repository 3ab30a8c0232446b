"""Which bytes a source has: by its validators, by digests in its heads, by comparing (S4, S7-S9, S28; M22; N23)."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import replace
from email.utils import formatdate
from pathlib import Path

import pytest

from engine import DownloadRequest, OnChange
from tests.support.library import BIG_CHUNK, CHUNK, claims, parts_under, payload_of, small
from tests.support.origin import Asked, End, Reply, Script, serve
from tests.support.run import Outcome, assert_complete, assert_failed, assert_nothing_published, run

OLD = payload_of(30 * BIG_CHUNK + 11, seed=41)
NEW = payload_of(30 * BIG_CHUNK + 11, seed=42)
TINY = payload_of(1000, seed=43)
LATER = "Wed, 04 Mar 2026 10:00:00 GMT"
NOT_FOUND = Reply(status=404)
FEW_CONNECTIONS = 3


def request(url: str, **fields: object) -> DownloadRequest:
    return DownloadRequest(url=url, connections=FEW_CONNECTIONS, **fields)  # type: ignore[arg-type]


def at_first(count: int, then: Reply, reply: Reply | None = None) -> Script:
    """The plain truth (or ``reply``) for so many requests, then another answer."""
    return lambda asked: (reply or Reply()) if asked.number <= count else then


async def held_after_six(library: Path, url: str) -> int:
    """A first run that ended in the middle; how many bytes it left."""
    assert_failed(await run(library, request(url)), "not_found", 404)
    return assert_nothing_published(library, OLD)


async def test_if_range_is_sent_once_and_only_with_a_strong_etag(library: Path) -> None:
    async with serve(OLD, at_first(6, NOT_FOUND)) as origin:
        held = await held_after_six(library, origin.url())
        assert not any("if-range" in asked.fields for asked in origin.asked)
        origin.forget()
        origin.script = lambda _: Reply()
        outcome = await run(library, request(origin.url()))
        sent = [asked.fields["if-range"] for asked in origin.asked if "if-range" in asked.fields]
    assert_complete(outcome, OLD)
    assert outcome.stats.bytes_resumed == held
    assert sent == [origin.etag]
    assert len(origin.asked) > 1


async def test_if_range_is_never_sent_with_a_date_or_a_weak_etag(library: Path) -> None:
    weak = Reply(etag='W/"a"')
    async with serve(OLD, at_first(6, NOT_FOUND, weak)) as origin:
        await held_after_six(library, origin.url())
        origin.script = lambda _: weak
        assert_complete(await run(library, request(origin.url())), OLD)
    assert not any("if-range" in asked.fields for asked in origin.asked)


async def test_if_range_that_is_not_understood_is_not_sent_again(library: Path) -> None:
    """Everything comes although the ETag is the same: asked once more, without it, and what is held is kept."""

    def misunderstands(asked: Asked) -> Reply:
        return Reply(status=200) if "if-range" in asked.fields else Reply()

    async with serve(OLD, at_first(6, NOT_FOUND)) as origin:
        held = await held_after_six(library, origin.url())
        origin.forget()
        origin.script = misunderstands
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, OLD)
    assert (outcome.stats.bytes_resumed, outcome.stats.bytes_fetched) == (held, len(OLD) - held)
    assert sum("if-range" in asked.fields for asked in origin.asked) == 1


@pytest.mark.parametrize("good", [2, 5])
async def test_another_etag_for_the_same_bytes_is_taken(library: Path, good: int) -> None:
    """Two held chunks are fetched again and compared; nothing else is."""
    async with serve(OLD, at_first(good, Reply(etag='"other"'))) as origin:
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, OLD)
    (claim,) = claims(library)
    if claim.part.generation == 1:  # otherwise nothing was held yet that could be compared
        assert (claim.part.representation.etag, claim.part.representation.other_etags) == ('"other"', (origin.etag,))
        assert outcome.stats.bytes_fetched <= len(OLD) + 2 * claim.part.chunk_bytes + FEW_CONNECTIONS * BIG_CHUNK


@pytest.mark.parametrize("heeds", [False, True], ids=["plain", "a server that heeds If-Range"])
async def test_another_etag_at_the_next_run(library: Path, heeds: bool) -> None:
    async with serve(OLD, at_first(6, NOT_FOUND)) as origin:
        held = await held_after_six(library, origin.url())
        origin.script = lambda asked: Reply(
            etag='"other"', status=200 if heeds and "if-range" in asked.fields else None
        )
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, OLD)
    (claim,) = claims(library)
    assert (claim.part.generation, claim.part.representation.other_etags) == (1, (origin.etag,))
    assert outcome.stats.bytes_resumed == held
    again = outcome.stats.bytes_fetched - (len(OLD) - held)
    assert 0 < again <= 2 * claim.part.chunk_bytes


async def test_a_resume_among_servers_with_etags_of_their_own_asks_without_if_range(library: Path) -> None:
    """Each would take the other's ETag for another version, and send everything."""

    def script(asked: Asked) -> Reply:
        etag = f'"{asked.number % 2}"'
        matches = asked.fields.get("if-range", etag) == etag
        if asked.number > 12 and not stay:
            return NOT_FOUND
        return Reply(etag=etag, status=None if matches else 200)

    stay: list[bool] = []
    async with serve(OLD, script) as origin:
        assert_failed(await run(library, request(origin.url())), "not_found", 404)
        held = assert_nothing_published(library, OLD)
        stay.append(True)
        origin.forget()
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, OLD)
    assert (outcome.stats.bytes_resumed, outcome.stats.bytes_fetched) == (held, len(OLD) - held)
    assert not any("if-range" in asked.fields for asked in origin.asked)


@pytest.mark.parametrize("servers", [2, 5, 1000])
async def test_each_server_of_a_site_has_an_etag_of_its_own(library: Path, servers: int) -> None:
    """They are all of the same bytes; beyond so many, an ETag tells nothing any more and the date counts alone."""
    async with serve(OLD, at_first(6, NOT_FOUND)) as origin:
        held = await held_after_six(library, origin.url())
        origin.script = lambda asked: Reply(etag=f'"server {asked.number % servers}"'.replace(" ", "-"))
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, OLD)
    assert outcome.stats.bytes_resumed == held
    (claim,) = claims(library)
    assert claim.part.generation == 1
    assert bool(claim.part.representation.etag) == (servers < 1000)


@pytest.mark.parametrize(("truth", "generation"), [(OLD, 1), (NEW, 2)], ids=["the same bytes", "others"])
async def test_validators_that_are_gone(library: Path, truth: bytes, generation: int) -> None:
    """What would show that the bytes are the same is not stated any more: they are compared."""
    async with serve(OLD, at_first(6, NOT_FOUND)) as origin:
        await held_after_six(library, origin.url())
        origin.script = lambda _: Reply(body=truth, etag="", last_modified="")
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, truth)
    (claim,) = claims(library)
    assert claim.part.generation == generation
    assert not claim.part.representation.comparable


async def test_s8_a_young_date_is_no_validator(library: Path) -> None:
    """Modified within a minute of its answer: compared at a resume, and other bytes under the same date are noticed."""
    now = formatdate(usegmt=True)
    young = Reply(etag="", last_modified=now, fields=(("Date", now),))
    cut = replace(young, send=20 * BIG_CHUNK, end=End.RESET)
    for truth in (OLD, NEW):
        name = f"{len(truth)}-{truth[0]}"
        async with serve(OLD, lambda asked: (young, cut, NOT_FOUND)[min(asked.number, 3) - 1]) as origin:
            assert_failed(await run(library, request(origin.url(), id=name)), "not_found", 404)
            origin.script = lambda _, truth=truth: replace(young, body=truth)  # type: ignore[misc]
            assert_complete(await run(library, request(origin.url(), id=name)), truth)


async def test_a_change_can_be_refused(library: Path) -> None:
    """``on_change="fail"``: FAILED, what was fetched is kept, and taking the new version is asked for."""
    async with serve(OLD, at_first(6, Reply(body=NEW, etag='"new"', last_modified=LATER))) as origin:
        refusing = request(origin.url(), on_change=OnChange.FAIL)
        outcome = await run(library, refusing)
        assert_failed(outcome, "change_refused")
        held = assert_nothing_published(library, OLD)
        assert held > 0
        assert_failed(await run(library, refusing), "change_refused")
        assert assert_nothing_published(library, OLD) == held
        origin.script = lambda _: Reply()
        back = await run(library, refusing)
        assert_complete(back, OLD)
        assert back.stats.bytes_resumed == held


async def test_a_refused_change_can_be_taken(library: Path) -> None:
    async with serve(OLD, at_first(6, Reply(body=NEW, etag='"new"', last_modified=LATER))) as origin:
        assert_failed(await run(library, request(origin.url(), on_change=OnChange.FAIL)), "change_refused")
        assert_complete(await run(library, request(origin.url())), NEW)


async def test_what_cannot_be_compared_is_no_change_that_was_seen(library: Path) -> None:
    """No ranges, no validators: it begins anew also for who refuses a change."""
    naked = Reply(etag="", last_modified="", ranges=False)
    cut = replace(naked, send=20 * BIG_CHUNK, end=End.RESET)
    async with serve(OLD, at_first(1, naked, cut)) as origin:
        assert_complete(await run(library, request(origin.url(), on_change=OnChange.FAIL)), OLD)


def stated(data: bytes) -> str:
    return f"sha-256=:{base64.b64encode(hashlib.sha256(data).digest()).decode()}:"


def md5_of(data: bytes) -> str:
    return base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()


SAID: dict[str, tuple[str, Reply]] = {
    "Repr-Digest of ranges": (stated(OLD), Reply()),
    "Repr-Digest of a stream": (stated(OLD), Reply(ranges=False)),
    "Repr-Digest of a body without length": (stated(OLD), Reply(ranges=False, framing="chunked")),
    "N8 Repr-Digest of a body that ends with its connection": (stated(OLD), Reply(ranges=False, framing="eof")),
}


@pytest.mark.parametrize("name", SAID)
async def test_m22_a_digest_in_the_head_is_expected_of_the_file(library: Path, name: str) -> None:
    digest, reply = SAID[name]
    reply = replace(reply, fields=(("Repr-Digest", digest),))
    async with serve(OLD, lambda _: reply) as origin:
        outcome = await run(library, request(origin.url()))
        assert_complete(outcome, OLD)
        assert outcome.offline is not None
        assert outcome.offline.digests == {"sha256": hashlib.sha256(OLD).hexdigest()}
        await not_what_it_says(library, origin.url("other.bin"), origin)


async def not_what_it_says(library: Path, url: str, origin: object) -> None:
    origin.serve(NEW)  # type: ignore[attr-defined]
    outcome = await run(library, request(url, id="other"))
    assert_failed(outcome, "integrity")
    assert url in outcome.message
    assert claims(library)[-1].part.final_name not in {path.name for path in (library / "files").iterdir()} - {
        "film.bin"
    }


@pytest.mark.parametrize(
    "field", [("Repr-Digest", stated(TINY)), ("Content-Digest", stated(TINY)), ("Content-MD5", md5_of(TINY))]
)
@pytest.mark.parametrize("ranges", [True, False], ids=["206", "200"])
async def test_m22_a_small_file_and_its_digest(library: Path, field: tuple[str, str], ranges: bool) -> None:
    reply = Reply(ranges=ranges, fields=(field,))
    async with serve(TINY, lambda _: reply) as origin:
        assert_complete(await run(library, request(origin.url())), TINY)
        origin.serve(TINY[::-1])
        outcome = await run(library, request(origin.url("b.bin"), id="b"))
        if field[0] == "Content-MD5" and ranges:  # of a part it says nothing that can be relied on
            assert outcome.code == ""
            return
        assert_failed(outcome, "corrupt_body" if field[0] == "Content-Digest" and ranges else "integrity")
        assert origin.url("b.bin") in outcome.message
        assert parts_under(library / "files") <= {path.name for path in (library / "files").glob(".oe-*")}
        assert not (library / "files" / "b.bin").exists()


def damaged(asked: Asked, *, when: bool) -> Reply:
    """A range with the digest of its true bytes, and one of its bytes wrong."""
    if asked.start is None:
        return Reply()
    end = min(len(OLD), asked.end or len(OLD))
    field = ("Content-Digest", stated(OLD[asked.start : end]))
    wrong = OLD[: end - 1] + bytes([OLD[end - 1] ^ 1]) + OLD[end:] if when else OLD
    return Reply(body=wrong, fields=(field,))


@pytest.mark.parametrize("number", [1, 2, 4])
async def test_a_corrupt_range_is_fetched_again(library: Path, number: int) -> None:
    """N23: what came with the wrong bytes is forgotten, committed or not, and the file is right in the end."""
    async with serve(OLD, lambda asked: damaged(asked, when=asked.number == number)) as origin:
        outcome = await run(library, request(origin.url()))
    assert_complete(outcome, OLD)
    assert len(OLD) + CHUNK <= outcome.stats.bytes_fetched


async def test_n23_a_line_that_always_damages_data_ends_in_an_error(library: Path) -> None:
    """The last byte of every body is wrong, so nothing is ever claimed."""
    async with serve(OLD, lambda asked: damaged(asked, when=True)) as origin:
        outcome = await run(library, request(origin.url()), config=small(backoff_max_s=0.01))
        assert_failed(outcome, "corrupt_body")
        assert assert_nothing_published(library, OLD) == 0
        assert origin.base in outcome.message


async def test_s28_a_compressed_range_is_not_the_file(library: Path) -> None:
    async with serve(OLD, at_first(6, Reply(fields=(("Content-Encoding", "br"),)))) as origin:
        outcome: Outcome = await run(library, request(origin.url()))
        assert_failed(outcome, "encoded", 206)
        held = assert_nothing_published(library, OLD)
        origin.script = lambda _: Reply()
        again = await run(library, request(origin.url()))
    assert_complete(again, OLD)
    assert again.stats.bytes_resumed == held


@pytest.mark.parametrize("told", [True, False], ids=["told", "not told"])
async def test_s7_a_range_error_of_another_length(library: Path, told: bool) -> None:
    """416 with another total is another version; without one, a request for everything tells. Its body is nothing."""
    short = payload_of(3 * BIG_CHUNK, seed=44)

    def script(asked: Asked) -> Reply:
        if not told and asked.start is not None and asked.start >= len(short):
            return Reply(status=416, etag="")
        return Reply(etag="")

    async with serve(OLD, at_first(6, NOT_FOUND)) as origin:
        await held_after_six(library, origin.url())
        origin.serve(short)
        origin.script = script
        assert_complete(await run(library, request(origin.url())), short)
    assert claims(library)[0].part.generation == 2


async def test_s7_ranges_that_are_refused_though_they_are_there(library: Path) -> None:
    """416 for a file that did not change: the server's ranges are broken; what is held is kept."""

    def script(asked: Asked) -> Reply:
        return Reply() if asked.number <= 6 or asked.start is None else Reply(status=416)

    async with serve(OLD, script) as origin:
        outcome = await run(library, request(origin.url()))
        assert_failed(outcome, "bad_range", 416)
        held = assert_nothing_published(library, OLD)
        assert held > 0
        origin.script = lambda _: Reply()
        again = await run(library, request(origin.url()))
    assert_complete(again, OLD)
    assert again.stats.bytes_resumed == held
