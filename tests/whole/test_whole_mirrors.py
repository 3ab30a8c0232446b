"""Several sources of one file: they take over from each other, are told apart when they disagree, and are named."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio

from engine import DownloadRequest, InvalidRequest, Pieces, SourceBlamed, open_engine
from engine.config import DEFAULT_CONFIG, MIB
from engine.control.requests import entry_of
from engine.model.records import PIECES_MAX
from engine.transfer.cross_check import WINDOW_BYTES
from tests.support.library import BIG_CHUNK, CHUNK, content, hash_of, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, Script, plain, serve
from tests.support.run import Outcome, run

SIZE = 100 * BIG_CHUNK + 777
# As dense as a bit each 10 MiB in chunks of 1 MiB.
FLIP_BYTES = 10 * BIG_CHUNK
# Seen in the few chunks of a small file that are compared.
DENSE = 3 * BIG_CHUNK
CONFIG = small(connections_per_entry=4)


def flipped(payload: bytes, every: int = FLIP_BYTES, first: int = BIG_CHUNK // 2) -> bytes:
    """The payload with one bit flipped in each ``every`` bytes."""
    bad = bytearray(payload)
    for at in range(first, len(bad), every):
        bad[at] ^= 0x10
    return bytes(bad)


def pieces_of(payload: bytes, piece_bytes: int, algorithm: str = "sha256") -> Pieces:
    digests = [
        hashlib.new(algorithm, payload[at : at + piece_bytes]).digest() for at in range(0, len(payload), piece_bytes)
    ]
    return Pieces(algorithm=algorithm, piece_bytes=piece_bytes, digests=b"".join(digests))


def sha256(payload: bytes) -> dict[str, str]:
    return {"sha256": hashlib.sha256(payload).hexdigest()}


@asynccontextmanager
async def mirrors(*served: tuple[bytes, Script]) -> AsyncIterator[list[Origin]]:
    """An origin for each payload and script; mirrors have ETags of their own."""
    async with AsyncExitStack() as stack:
        origins = []
        for number, (payload, script) in enumerate(served):
            origin = await stack.enter_async_context(serve(payload, script))
            origin.etag = f'"mirror-{number}"'
            origins.append(origin)
        yield origins


def request_of(origins: list[Origin], **more: object) -> DownloadRequest:
    first, *others = (origin.url() for origin in origins)
    return DownloadRequest(url=first, mirrors=tuple(others), **more)  # type: ignore[arg-type]  # fields by name


def named(outcome: Outcome) -> list[str]:
    return [blame.url for blame in outcome.entry.blamed]


def assert_right(outcome: Outcome, payload: bytes) -> None:
    assert outcome.code == "", outcome.message
    assert outcome.offline is not None
    assert content(outcome.offline.path) == payload


@pytest.mark.parametrize("bad", [0, 1])
@pytest.mark.parametrize("piece_bytes", [BIG_CHUNK, BIG_CHUNK // 4, 3 * BIG_CHUNK + 5])
async def test_a_flipping_mirror_is_named_by_pieces(library: Path, bad: int, piece_bytes: int) -> None:
    """Whichever of two it is, and however pieces and chunks lie: the file is right, it alone is named, and no more is
    fetched twice than the chunks of bad pieces."""
    payload = payload_of(SIZE)
    bodies = [payload, payload]
    bodies[bad] = flipped(payload)
    async with mirrors((bodies[0], plain), (bodies[1], plain)) as origins:
        outcome = await run(library, request_of(origins, pieces=pieces_of(payload, piece_bytes)), config=CONFIG)
    assert_right(outcome, payload)
    assert named(outcome) == [origins[bad].url()]
    chunks_of_a_piece = -(-piece_bytes // BIG_CHUNK) + (piece_bytes > BIG_CHUNK)
    most = SIZE / FLIP_BYTES * chunks_of_a_piece * BIG_CHUNK
    assert outcome.stats.bytes_fetched <= SIZE + most


@pytest.mark.parametrize("algorithm", ["sha256", "blake3"])
async def test_a_flipping_mirror_is_named_by_the_hash_of_the_whole(library: Path, algorithm: str) -> None:
    """It stood by, and was compared: a twentieth is fetched twice, and the window around what differs."""
    payload = payload_of(2 * SIZE)
    expect = {"blake3": hash_of(payload)} if algorithm == "blake3" else sha256(payload)
    async with mirrors((payload, plain), (flipped(payload), plain)) as origins:
        outcome = await run(library, request_of(origins, expect=expect), config=CONFIG)
    assert_right(outcome, payload)
    assert named(outcome) == [origins[1].url()]
    assert outcome.stats.bytes_fetched <= 1.05 * len(payload) + 2 * WINDOW_BYTES
    assert outcome.entry.blamed[0].chunks == 1


@pytest.mark.parametrize("size", [SIZE, CHUNK // 2], ids=["many chunks", "one chunk"])
async def test_a_bad_first_source_is_named_by_the_hash_of_the_whole(library: Path, size: int) -> None:
    """Nothing tells which of two is right before the end: then all of it is fetched from the other."""
    payload = payload_of(size)
    async with mirrors((flipped(payload, first=5), plain), (payload, plain)) as origins:
        outcome = await run(library, request_of(origins, expect=sha256(payload)), config=CONFIG)
    assert_right(outcome, payload)
    assert named(outcome) == [origins[0].url()]
    assert outcome.entry.attempt_count == 1
    assert outcome.stats.bytes_fetched <= 2 * size + size // 20 + 2 * WINDOW_BYTES


async def test_a_bad_first_source_without_ranges(library: Path) -> None:
    payload = payload_of(SIZE // 4)
    script = lambda asked: Reply(ranges=False)  # noqa: E731
    async with mirrors((flipped(payload), script), (payload, script)) as origins:
        outcome = await run(library, request_of(origins, expect=sha256(payload)), config=CONFIG)
        assert_right(outcome, payload)
        assert named(outcome) == [origins[0].url()]
        pieces = pieces_of(payload, BIG_CHUNK)
        origins[1].payload = flipped(payload)
        outcome = await run(library, request_of(origins[1:], pieces=pieces, id="pieces alone"), config=CONFIG)
    assert (outcome.code, outcome.offline) == ("integrity", None)


async def test_all_sources_are_wrong(library: Path) -> None:
    payload = payload_of(SIZE // 4)
    bad = flipped(payload)
    async with mirrors((bad, plain), (bad, plain)) as origins:
        by_whole = await run(library, request_of(origins, expect=sha256(payload), id="whole"), config=CONFIG)
        pieces = pieces_of(payload, BIG_CHUNK)
        by_pieces = await run(library, request_of(origins, pieces=pieces, id="pieces"), config=CONFIG)
    assert (by_whole.code, by_whole.offline) == ("integrity", None)
    assert (by_pieces.code, by_pieces.offline) == ("integrity", None)
    assert origins[0].base in by_pieces.message or origins[1].base in by_pieces.message


async def test_two_differ_and_nothing_tells_who_is_right(library: Path) -> None:
    """No hash, no third: neither is believed, and both are named in the error."""
    payload = payload_of(SIZE)
    async with mirrors((payload, plain), (flipped(payload, DENSE), plain)) as origins:
        outcome = await run(library, request_of(origins), config=CONFIG)
    assert (outcome.code, outcome.offline) == ("integrity", None)
    assert all(origin.base in outcome.message for origin in origins)
    assert named(outcome) == []


@pytest.mark.parametrize("bad", [0, 1, 2])
async def test_the_majority_of_three_is_right(library: Path, bad: int) -> None:
    payload = payload_of(SIZE)
    bodies = [payload] * 3
    bodies[bad] = flipped(payload, DENSE)
    async with mirrors(*((body, plain) for body in bodies)) as origins:
        outcome = await run(library, request_of(origins), config=CONFIG)
    assert_right(outcome, payload)
    assert named(outcome) == [origins[bad].url()]


@pytest.mark.parametrize("bad", [0, 1])
async def test_who_contradicts_himself_is_bad(library: Path, bad: int) -> None:
    """Bits flip on the way, others each time: asked again for the same bytes it sends others."""
    payload = payload_of(SIZE)

    def damaged(asked: Asked) -> Reply:
        body = bytearray(payload)
        for at in range(asked.number % 7, len(body), BIG_CHUNK // 8):
            body[at] ^= 1 << asked.number % 5
        return Reply(body=bytes(body))

    scripts: list[Script] = [plain, plain]
    scripts[bad] = damaged
    async with mirrors(*((payload, script) for script in scripts)) as origins:
        outcome = await run(library, request_of(origins), config=CONFIG)
    assert_right(outcome, payload)
    assert named(outcome) == [origins[bad].url()]


GOING: list[tuple[str, Reply]] = [
    ("cut", Reply(send=5 * BIG_CHUNK, end=End.RESET)),
    ("stalled", Reply(send=5 * BIG_CHUNK, end=End.HANG)),
    ("slow", Reply(rate=10e3)),
    ("refusing", Reply(status=503)),
    ("gone", Reply(status=404)),
    ("shorter", Reply(body=b"x" * 1000)),
    ("compressed", Reply(fields=(("Content-Encoding", "gzip"),))),
]


@pytest.mark.parametrize("checked", [False, True], ids=["no hash", "pieces"])
@pytest.mark.parametrize("reply", [row[1] for row in GOING], ids=[row[0] for row in GOING])
async def test_a_source_that_fails_is_replaced(library: Path, reply: Reply, checked: bool) -> None:
    """Whatever becomes of one behind its first span, the other brings the rest, within the same attempt, and long
    before the first one's stall would have been noticed by itself."""
    payload = payload_of(SIZE)
    config = small(connections_per_entry=4, idle_timeout_s=30.0, crawl_s=0.5)

    def script(asked: Asked) -> Reply:
        return Reply() if asked.number == 1 else reply

    pieces = pieces_of(payload, BIG_CHUNK) if checked else None
    async with mirrors((payload, script), (payload, plain)) as origins:
        with trio.fail_after(25):
            outcome = await run(library, request_of(origins, pieces=pieces), config=config)
    assert_right(outcome, payload)
    assert named(outcome) == []
    assert outcome.entry.attempt_count == 1
    assert outcome.stats.bytes_fetched <= 1.3 * SIZE


async def test_a_source_that_is_slow_from_the_start(library: Path) -> None:
    """The one that stands by is asked for what is to be compared at once, so that it is known to be faster before the
    slow one has sent a single chunk."""
    payload = payload_of(SIZE)
    config = small(connections_per_entry=4, crawl_s=0.5)
    async with mirrors((payload, lambda asked: Reply(rate=10e3)), (payload, plain)) as origins:
        with trio.fail_after(25):
            outcome = await run(library, request_of(origins), config=config)
    assert_right(outcome, payload)
    assert outcome.entry.attempt_count == 1
    assert origins[1].sent > 0.9 * SIZE


async def test_the_first_source_is_not_there_at_all(library: Path) -> None:
    payload = payload_of(SIZE // 4)
    async with mirrors((payload, lambda asked: Reply(status=404)), (payload, plain)) as origins:
        request = DownloadRequest(url="http://127.0.0.1:1/film.bin", mirrors=tuple(o.url() for o in origins))
        outcome = await run(library, request, config=CONFIG)
    assert_right(outcome, payload)
    assert outcome.entry.attempt_count == 1


async def test_a_resume_goes_on_with_whoever_is_left(library: Path) -> None:
    """Each source is compared with what it said itself: different ETags of two mirrors are no change. What is held
    counts, and is compared before the other source adds to it."""
    payload = payload_of(SIZE)

    def broken(asked: Asked) -> Reply:
        return Reply(send=20 * BIG_CHUNK, end=End.RESET) if asked.number == 1 else Reply(status=404)

    only = small(connections_per_entry=1, parallel_bytes_min=10 * MIB, first_span_bytes=4 * MIB)
    async with mirrors((payload, broken), (payload, lambda asked: Reply(status=404))) as origins:
        first = await run(library, request_of(origins, id="x"), config=only)
        assert first.code == "not_found"
        origins[1].script = plain
        again = await run(library, request_of(origins, id="x"), config=CONFIG)
    assert_right(again, payload)
    assert again.stats.bytes_resumed >= 10 * BIG_CHUNK
    assert again.stats.bytes_fetched <= SIZE - again.stats.bytes_resumed + 10 * BIG_CHUNK


async def test_a_named_source_stays_out(library: Path) -> None:
    """Of the next attempts too, and of the same request asked again; other sources begin with a clean slate."""
    payload = payload_of(SIZE // 4)
    state = {"good": True}

    def fails_later(asked: Asked) -> Reply:
        return Reply() if state["good"] else Reply(status=404)

    async with mirrors((flipped(payload), plain), (payload, fails_later)) as origins:
        request = request_of(origins, pieces=pieces_of(payload, BIG_CHUNK), id="x")
        outcome = await run(library, request, config=CONFIG)
        assert named(outcome) == [origins[0].url()]
        os.unlink(str(outcome.offline and outcome.offline.path))
        asked = len(origins[0].asked)
        outcome = await run(library, request, config=CONFIG)
        assert_right(outcome, payload)
        assert len(origins[0].asked) == asked
        assert named(outcome) == [origins[0].url()]


async def test_headers_stay_with_the_first_source(library: Path) -> None:
    payload = payload_of(SIZE // 4)
    async with mirrors((payload, lambda asked: Reply(status=503)), (payload, plain)) as origins:
        request = request_of(origins, secret_headers=(("Authorization", "Bearer x"),), headers=(("X-Own", "1"),))
        outcome = await run(library, request, config=CONFIG)
    assert_right(outcome, payload)
    assert all(asked.fields.get("authorization") == "Bearer x" for asked in origins[0].asked)
    assert origins[1].asked
    assert not any({"authorization", "x-own"} & asked.fields.keys() for asked in origins[1].asked)


async def test_the_event_names_no_secret(library: Path) -> None:
    payload = payload_of(SIZE // 4)
    async with mirrors((flipped(payload), plain), (payload, plain)) as origins:
        urls = [f"{origin.url()}?token=secret" for origin in origins]
        request = DownloadRequest(url=urls[0], mirrors=(urls[1],), pieces=pieces_of(payload, BIG_CHUNK), id="x")
        async with open_engine(library, config=CONFIG) as engine:
            events = engine.events("x")
            await (await engine.offline(request)).wait()
            entry = await engine.get("x")
        seen = [event async for event in events if isinstance(event, SourceBlamed)]
    assert len(seen) == 1
    assert "secret" not in repr(seen[0])
    assert [blame.url for blame in entry.blamed] == [urls[0]]
    assert "secret" not in repr(entry.blamed)


REFUSED: list[tuple[str, dict[str, object]]] = [
    ("mirrors", {"mirrors": "http://a/b"}),
    ("mirrors", {"mirrors": (1,)}),
    ("mirrors", {"mirrors": ("http://h/f",) * 65}),
    ("URL", {"mirrors": ("ftp://h/f",)}),
    ("pieces", {"pieces": "x"}),
    ("pieces", {"pieces": Pieces(algorithm="crc", piece_bytes=1, digests=b"x")}),
    ("pieces", {"pieces": Pieces(algorithm="sha256", piece_bytes=0, digests=bytes(32))}),
    ("pieces", {"pieces": Pieces(algorithm="sha256", piece_bytes=1, digests=bytes(31))}),
    ("pieces", {"pieces": Pieces(algorithm="md5", piece_bytes=1, digests=b"")}),
    ("pieces", {"pieces": Pieces(algorithm="md5", piece_bytes=1, digests=bytes(16 * (PIECES_MAX + 1)))}),
    ("pieces", {"pieces": Pieces(algorithm="md5", piece_bytes=10, digests=bytes(16)), "expected_length": 11}),
]


@pytest.mark.parametrize(("word", "fields"), REFUSED)
def test_what_can_never_work_is_refused(word: str, fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest, match=word):
        entry_of(DownloadRequest(url="http://h/f", **fields), DEFAULT_CONFIG, 0.0)  # type: ignore[arg-type]


def test_the_same_url_twice_is_one_source() -> None:
    entry = entry_of(DownloadRequest(url="http://h/f", mirrors=("http://h/f", "http://i/f")), DEFAULT_CONFIG, 0.0)
    assert entry.sources == ("http://h/f", "http://i/f")
