"""URLs that expire or redirect: asked again from their start, or another one asked for; no byte is lost (S36, M24)."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from engine import (
    DownloadEntry,
    DownloadRequest,
    Resolve,
    Resolved,
    Resolver,
    State,
    open_engine,
)
from tests.net import script_server as raw
from tests.support.library import BIG_CHUNK, SMALL, payload_of, small
from tests.support.origin import Asked, End, Origin, Reply, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, assert_waits_for_a_url, run

OLD = payload_of(30 * BIG_CHUNK + 11, seed=51)
SECRET = "TOPSECRET"
QUICK = small(resolve_interval_s=0.02, resolver_timeout_s=0.2)
FEW_CONNECTIONS = 3


def request(url: str, **fields: object) -> DownloadRequest:
    return DownloadRequest(**({"url": url, "id": "film", "connections": FEW_CONNECTIONS} | fields))  # type: ignore[arg-type]


def moved(target: str, status: int = 302) -> Reply:
    return Reply(status=status, fields=(("Location", target),))


@dataclass
class Signer:
    """A script: ``/film`` redirects to ``/signed?key=…``, whose newest key is good for so many requests."""

    uses: int = 10**9
    key: int = 0
    used: int = 0
    query: str = ""
    refusal: Reply = field(default_factory=lambda: Reply(status=403))

    def __call__(self, asked: Asked) -> Reply:
        if asked.target == "/film":
            self.key, self.used = self.key + 1, 0
            return moved(f"/signed?key={self.key}&token={SECRET}{self.query}")
        self.used += 1
        good = f"key={self.key}&" in asked.target and self.used <= self.uses
        return Reply() if good else self.refusal


def starts(origin: Origin) -> int:
    return sum(asked.target == "/film" for asked in origin.asked)


def stored(library: Path) -> bytes:
    return b"".join(path.read_bytes() for path in (library / "store").rglob("*") if path.is_file())


async def test_spans_ask_the_final_url(library: Path) -> None:
    """The chain is walked once; the URL behind it is in no file of the store."""
    async with serve(OLD, Signer()) as origin:
        outcome = await run(library, request(origin.url("film")), config=QUICK)
    assert_complete(outcome, OLD)
    assert starts(origin) == 1
    assert len(origin.asked) > 4
    assert SECRET.encode() not in stored(library)


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_s36_a_refused_final_url_is_resolved_from_the_start(library: Path, status: int) -> None:
    """Each key is good for four requests; the bits are kept, and those who run into it together walk once."""
    signer = Signer(uses=4, refusal=Reply(status=status))
    async with serve(OLD, signer) as origin:
        outcome = await run(library, request(origin.url("film")), config=QUICK)
    assert_complete(outcome, OLD)
    assert outcome.entry.attempt_count == 1
    assert outcome.stats.bytes_fetched == len(OLD)
    served = sum(asked.target != "/film" for asked in origin.asked)
    assert 2 <= starts(origin) <= 1 + served // 4


async def test_a_url_for_one_request_only_is_asked_for_each_time(library: Path) -> None:
    async with serve(OLD, Signer(uses=1)) as origin:
        outcome = await run(library, request(origin.url("film"), connections=1), config=QUICK)
    assert_complete(outcome, OLD)
    refused = len(origin.asked) - 2 * starts(origin)
    assert refused == 1, "after the first refusal it is known"


async def test_a_final_url_that_ends_soon_is_not_kept(library: Path) -> None:
    """It says itself when: the chain is walked again ahead of that."""
    signer = Signer(query=f"&Expires={int(time.time()) + 10}")
    async with serve(OLD, signer) as origin:
        outcome = await run(library, request(origin.url("film"), connections=1), config=QUICK)
        kept = starts(origin)
        origin.forget()
        signer.query = f"&Expires={int(time.time()) + 3600}"
        assert_complete(await run(library, request(origin.url("film"), id="b", connections=1), config=QUICK), OLD)
    assert_complete(outcome, OLD)
    assert (kept > 3, starts(origin)) == (True, 1)


async def test_a_final_url_is_kept_for_a_while_only(library: Path) -> None:
    async with serve(OLD, Signer()) as origin:
        config = small(redirect_kept_s=0.001)
        outcome = await run(library, request(origin.url("film"), connections=1), config=config)
    assert_complete(outcome, OLD)
    assert starts(origin) > 3


DEAD = {
    "a server in trouble": Reply(status=503),
    "a page": Reply(fields=(("Content-Type", "text/html"),)),
}


@pytest.mark.parametrize("name", DEAD)
async def test_a_final_host_that_dies_is_walked_around(library: Path, name: str) -> None:
    """The chain may lead to another one by now."""
    dead: list[str] = []

    def script(asked: Asked) -> Reply:
        if asked.target == "/film.mp4":
            return moved("/b" if dead else "/a")
        if asked.target == "/a" and asked.number > 4:
            dead.append("a")
            return DEAD[name]
        return Reply()

    async with serve(OLD, script) as origin:
        outcome = await run(library, request(origin.url("film.mp4"), connections=1))
    assert_complete(outcome, OLD)
    assert outcome.stats.bytes_fetched == len(OLD)
    assert (outcome.entry.attempt_count, [asked.target for asked in origin.asked].count("/film.mp4")) == (1, 2)


@dataclass
class Host:
    """A resolver: answers with what ``answer`` gives, and notes what it was asked."""

    answer: Callable[[int], Awaitable[Resolved | None] | Resolved | None]
    asked: list[tuple[str, Resolve]] = field(default_factory=list)
    at_once: int = 0
    most_at_once: int = 0

    async def __call__(self, entry: DownloadEntry, why: Resolve) -> Resolved | None:
        self.asked.append((entry.id, why))
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await trio.lowlevel.checkpoint()
            answer = self.answer(len(self.asked))
            return answer if answer is None or isinstance(answer, Resolved) else await answer
        finally:
            self.at_once -= 1


def keyed(good: int) -> Callable[[Asked], Reply]:
    """``/film?key=N`` is served ``good`` times for each N, in turn."""
    used: dict[str, int] = {}

    def script(asked: Asked) -> Reply:
        used[asked.target] = used.get(asked.target, 0) + 1
        return Reply() if used[asked.target] <= good else Reply(status=403)

    return script


async def test_s36_the_host_is_asked_for_another_url(library: Path, caplog: pytest.LogCaptureFixture) -> None:
    """One question for all connections that were refused; nothing of the new URL is logged or stored."""
    caplog.set_level(logging.DEBUG)
    async with serve(OLD, keyed(5)) as origin:
        host = Host(lambda number: Resolved(origin.url(f"film?key={number}&sig={SECRET}")))
        outcome = await run(library, request(origin.url("film?key=0")), config=QUICK, resolver=host)
    assert_complete(outcome, OLD)
    assert outcome.entry.attempt_count == 1
    assert outcome.stats.bytes_fetched == len(OLD)
    assert host.asked
    assert set(host.asked) == {("film", Resolve.REFUSED)}
    assert len(host.asked) <= len(origin.asked) // 5
    assert host.most_at_once == 1
    assert SECRET not in caplog.text
    assert SECRET.encode() not in stored(library)
    assert outcome.entry.url == origin.url("film?key=0")


KEYED = f"/{SECRET}-abc/f.mp4?sig={SECRET}"
GARBAGE = b"garbage\r\n\r\n"
WRONG_DIGEST = f"Content-Digest: sha-256=:{'A' * 43}=:"
# What the place that the host gave answers, what the place behind it does, and how that ends.
FAULTY: dict[str, tuple[list[raw.Step], list[raw.Step], str]] = {
    "garbage": ([GARBAGE], [], "protocol"),
    "a line that breaks": ([raw.End.RESET], [], "connection_lost"),
    "a page": ([raw.answer(b"<html>", "Content-Type: text/html")], [], "wrong_type"),
    "a redirect to nowhere": ([raw.answer(status="302 Found")], [], "redirect"),
    "a redirect that is refused": ([raw.answer(b"", "Location: ftp://a/", status="302 Found")], [], "redirect"),
    "a loop": ([raw.answer(b"", f"Location: {KEYED}", status="302 Found")], [], "redirect"),
    "garbage behind it": ([raw.answer(b"", f"Location: /{SECRET}", status="302 Found")], [GARBAGE], "protocol"),
    "damage": (
        [raw.answer(b"hello", "Content-Range: bytes 0-4/5", WRONG_DIGEST, status="206 Partial Content")],
        [],
        "corrupt_body",
    ),
}


@pytest.mark.parametrize("name", FAULTY)
async def test_of_a_place_that_the_host_gave_errors_name_the_origin_only(
    library: Path, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    """Found: its path was in the error of each attempt on record, and paths are signed too."""
    caplog.set_level(logging.DEBUG)
    given, behind, code = FAULTY[name]

    def script(asked: raw.Asked) -> list[raw.Step]:
        if asked.target == "/film":
            return [raw.answer(status="403 Forbidden")]
        return given if asked.target == KEYED else behind

    config = small(backoff_max_s=0.001, breaker_failures=1000, resolve_interval_s=0.001)
    async with raw.serve(script) as server:
        host = Host(lambda _: Resolved(server.base + KEYED))
        outcome = await run(library, request(server.base + "/film"), config=config, resolver=host)
    assert (outcome.code, outcome.entry.state) == (code, State.FAILED)
    assert server.base in outcome.message
    assert [SECRET in text for text in (outcome.message, caplog.text)] == [False, False]
    assert SECRET.encode() not in stored(library)


async def test_the_host_is_asked_ahead_of_an_end_that_is_known(library: Path) -> None:
    """By the URL itself, or by what the host said of its last one; also before the first request."""
    now = time.time()
    async with serve(OLD) as origin:
        host = Host(lambda number: Resolved(origin.url(f"fresh?key={number}"), None, now + 3600 if number > 2 else now))
        url = origin.url(f"film?Expires={int(now) + 5}")
        outcome = await run(library, request(url, connections=1), config=small(resolve_interval_s=0.001), resolver=host)
    assert_complete(outcome, OLD)
    assert [why for _, why in host.asked] == [Resolve.EXPIRING] * 3
    assert not [asked for asked in origin.asked if asked.target.startswith("/film?")]
    assert {asked.target for asked in origin.asked} == {f"/fresh?key={number}" for number in (1, 2, 3)}


async def test_a_url_that_still_works_is_used_when_the_host_has_no_other(library: Path) -> None:
    async with serve(OLD) as origin:
        host = Host(lambda _: None)
        url = origin.url(f"film?Expires={int(time.time()) + 20}")
        assert_complete(await run(library, request(url), config=QUICK, resolver=host), OLD)
    assert host.asked


async def raising() -> Resolved:
    raise ValueError(f"https://host/?sig={SECRET}")


async def hanging() -> Resolved:
    await trio.sleep_forever()
    raise AssertionError


WRONG: dict[str, Callable[[int], object]] = {
    "raises": lambda _: raising(),
    "hangs": lambda _: hanging(),
    "no URL": lambda _: Resolved(f"file:///{SECRET}"),
    "userinfo": lambda _: Resolved(f"https://user:{SECRET}@host/"),
    "no text": lambda _: Resolved(5),  # type: ignore[arg-type]
    "headers of no kind": lambda _: Resolved("https://host/", 5),  # type: ignore[arg-type]
    "header with a line end": lambda _: Resolved("https://host/", {"X-Key": f"{SECRET}\r\nHost: b"}),
    "header of the engine's": lambda _: Resolved("https://host/", (("Range", "bytes=0-"),)),
    "an end that is none": lambda _: Resolved("https://host/", None, "soon"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_resolver_that_fails_is_an_error_of_the_host(library: Path, name: str) -> None:
    """Typed, bounded in time and tries; what it said is not repeated. The next try may do better."""
    config = small(resolve_interval_s=0.001, resolver_timeout_s=0.02)
    async with serve(OLD, keyed(5)) as origin:
        host = Host(WRONG[name])  # type: ignore[arg-type]
        outcome = await run(library, request(origin.url("film")), config=config, resolver=host)
        assert_failed(outcome, "refresh_failed")
        assert outcome.entry.last_error is not None
        assert (outcome.entry.last_error.fault, SECRET in outcome.message) == ("host", False)
        held = assert_nothing_published(library, OLD)
        assert held > 0
        good = Host(lambda number: Resolved(origin.url(f"film?key={number}")))
        again = await run(library, request(origin.url("film")), config=config, resolver=good)
    assert_complete(again, OLD)
    assert again.stats.bytes_resumed == held


async def test_what_is_no_resolved_is_an_error_of_the_host(library: Path) -> None:
    async def resolver(_: DownloadEntry, __: Resolve) -> Resolved | None:
        return "https://host/"  # type: ignore[return-value]

    async with serve(OLD, keyed(0)) as origin:
        outcome = await run(library, request(origin.url("film")), config=QUICK, resolver=resolver)
    assert_failed(outcome, "refresh_failed")


async def test_a_host_without_another_url_leaves_the_entry_waiting(library: Path) -> None:
    async with serve(OLD, keyed(5)) as origin:
        outcome = await run(library, request(origin.url("film")), config=QUICK, resolver=Host(lambda _: None))
    assert_waits_for_a_url(outcome)


async def test_headers_belong_to_the_origin_they_were_given_for(library: Path) -> None:
    """The entry's own do not go to another host that the resolver names; the resolver's go there and nowhere else."""
    own = (("X-Own", "mine"),)
    async with serve(OLD, keyed(5)) as origin, serve(OLD) as other:
        other.etag = origin.etag
        for headers, sent in (({"X-Key": SECRET}, {"x-key": SECRET}), (None, {})):
            name = f"{len(sent)}"
            origin.script = keyed(5)
            other.forget()
            host = Host(lambda _, headers=headers: Resolved(other.url(), headers))  # type: ignore[misc]
            asked = request(origin.url("film"), id=name, headers=own)
            outcome = await run(library, asked, config=QUICK, resolver=host)
            assert_complete(outcome, OLD)
            seen = [{name: fields.fields[name] for name in ("x-own", "x-key") if name in fields.fields}
                    for fields in other.asked]  # fmt: skip
            assert seen
            assert all(each == sent for each in seen)
        assert all(asked.fields["x-own"] == "mine" for asked in origin.asked)
        assert not any("x-key" in asked.fields for asked in origin.asked)
    assert SECRET.encode() not in stored(library)


async def test_the_hosts_own_origin_keeps_the_headers(library: Path) -> None:
    async with serve(OLD, keyed(5)) as origin:
        host = Host(lambda number: Resolved(origin.url(f"film?key={number}")))
        asked = request(origin.url("film"), headers=(("X-Own", "mine"),))
        assert_complete(await run(library, asked, config=QUICK, resolver=host), OLD)
    assert all(asked.fields["x-own"] == "mine" for asked in origin.asked)


async def test_credentials_that_are_not_stored_are_asked_of_the_host(library: Path) -> None:
    """After a restart the entry goes on with what the resolver gives."""

    def script(asked: Asked) -> Reply:
        if asked.fields.get("authorization") != SECRET:
            return Reply(status=401)
        return Reply() if asked.number <= 6 else Reply(send=100, end=End.HANG)

    async with serve(OLD, script) as origin:
        asked = request(origin.url(), secret_headers=(("Authorization", SECRET),))
        async with open_engine(library, config=SMALL) as engine:
            await engine.offline(asked)
            await origin.until_asked(7)
        held = assert_nothing_published(library, OLD)
        origin.forget()
        origin.script = lambda asked: Reply() if asked.fields.get("authorization") == SECRET else Reply(status=401)
        host = Host(lambda _: Resolved(origin.url(), {"Authorization": SECRET}))
        async with open_engine(library, config=SMALL, resolver=host) as engine:
            await engine.wait("film")
            assert engine.run_stats("film").bytes_resumed == held
    assert host.asked == [("film", Resolve.CREDENTIALS)]
    assert SECRET.encode() not in stored(library)


NOBODY = "http://127.0.0.1:9/film"  # refused at once, and tried again for a long time


async def test_what_waits_for_a_url_is_taken_up_by_a_start_with_a_resolver(
    library: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """One of them cannot be: its destination is another's by now. It waits on, and is told."""
    async with serve(OLD, keyed(5)) as origin:
        for name, key in (("film", 0), ("taken", 1)):
            asked = request(origin.url(f"film?key={key}"), id=name, destination=str(library / name), connections=1)
            assert_waits_for_a_url(await run(library, asked, config=QUICK))
        async with open_engine(library, config=QUICK) as engine:
            assert (await engine.get("film")).state is State.PAUSED, "nobody can be asked"
            await engine.offline(request(NOBODY, id="other", destination=str(library / "taken")))
        host = Host(lambda number: Resolved(origin.url(f"film?key={number + 9}")))
        async with open_engine(library, config=QUICK, resolver=host) as engine:
            await engine.wait("film")
            assert engine.run_stats("film").bytes_resumed > 0
            assert (await engine.get("taken")).state is State.PAUSED
    assert (library / "film").read_bytes() == OLD
    assert "entry taken still waits for a URL" in caplog.text


def test_a_resolver_has_one_type() -> None:
    host: Resolver = Host(lambda _: None)
    assert callable(host)
    assert SECRET not in repr(Resolved(f"https://host/?sig={SECRET}", {"X-Key": SECRET}))
