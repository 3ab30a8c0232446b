"""A URL that is spent and nobody to ask: the entry waits, and goes on with another URL from the bytes so far (S36)."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from engine import DownloadFailed, DownloadRequest, open_engine
from tests.support.library import BIG_CHUNK, SMALL, claims, payload_of
from tests.support.origin import Asked, Reply, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, assert_waits_for_a_url, run

OLD = payload_of(30 * BIG_CHUNK + 11, seed=51)
NEW = payload_of(30 * BIG_CHUNK + 11, seed=52)
SECRET = "TOPSECRET"


def request(url: str, **fields: object) -> DownloadRequest:
    return DownloadRequest(**({"url": url, "id": "film", "connections": 3} | fields))  # type: ignore[arg-type]


@pytest.mark.parametrize("status", [401, 403])
async def test_s36_without_a_host_to_ask_it_waits_and_goes_on_with_a_new_url(library: Path, status: int) -> None:
    """Asked for under the same id with another URL, the bits are kept. Nothing else makes it run, a start does not."""

    def script(asked: Asked) -> Reply:
        good = asked.number <= 6 or "key=2" in asked.target
        return Reply() if good else Reply(status=status)

    async with serve(OLD, script) as origin:
        assert_waits_for_a_url(await run(library, request(origin.url(f"film?key=1&sig={SECRET}"))))
        held = assert_nothing_published(library, OLD)
        assert held > 0
        count = len(origin.asked)
        async with open_engine(library, config=SMALL) as engine:
            with pytest.raises(DownloadFailed) as failed:
                await engine.wait("film")
            assert failed.value.cause_code == "needs_url"
            assert SECRET not in str(failed.value)
        assert len(origin.asked) == count
        outcome = await run(library, request(origin.url("film?key=2")))
    assert_complete(outcome, OLD)
    assert outcome.stats.bytes_resumed == held
    assert outcome.stats.bytes_fetched == len(OLD) - held
    assert outcome.entry.last_error is None


@pytest.mark.parametrize("expect", [False, True], ids=["by validators", "by digest too"])
async def test_s36_a_new_url_with_other_bytes_is_a_new_version(library: Path, expect: bool) -> None:
    """Validators and digests are checked again: old and new are never mixed."""
    wanted = {"sha256": hashlib.sha256(NEW).hexdigest()} if expect else {}
    async with serve(OLD, lambda asked: Reply() if asked.number <= 6 else Reply(status=403)) as origin:
        assert_waits_for_a_url(await run(library, request(origin.url("film?key=1"))))
        origin.serve(NEW)
        origin.script = lambda _: Reply()
        assert_complete(await run(library, request(origin.url("film?key=2"), expect=wanted)), NEW)
    assert claims(library)[0].part.generation == 2


async def test_resuming_tries_the_same_url_again(library: Path) -> None:
    async with serve(OLD, lambda asked: Reply() if asked.number <= 6 else Reply(status=403)) as origin:
        assert_waits_for_a_url(await run(library, request(origin.url())))
        origin.script = lambda _: Reply()
        async with open_engine(library, config=SMALL) as engine:
            await engine.resume("film")
            await engine.wait("film")


@pytest.mark.parametrize("status", [401, 403, 404, 410])
async def test_s36_a_url_that_says_that_it_has_ended(library: Path, status: int) -> None:
    """At the first request already; one that does not say so is just refused."""
    async with serve(OLD, lambda _: Reply(status=status)) as origin:
        ended = await run(library, request(origin.url("film?Expires=1700000000"), id="a"))
        still = await run(library, request(origin.url("film?Expires=4000000000"), id="b"))
        plain = await run(library, request(origin.url("film"), id="c"))
    assert_waits_for_a_url(ended)
    code = {404: "not_found", 410: "gone"}.get(status, "auth")
    assert_failed(still, code, status)
    assert_failed(plain, code, status)


async def test_gone_in_the_middle_is_gone(library: Path) -> None:
    """S37: 404 and 410 on a URL that does not say that it has ended are final."""
    for status, code in ((404, "not_found"), (410, "gone")):
        reply = Reply(status=status)
        async with serve(OLD, lambda asked, reply=reply: Reply() if asked.number <= 6 else reply) as origin:  # type: ignore[misc]
            assert_failed(await run(library, request(origin.url(), id=code)), code, status)
