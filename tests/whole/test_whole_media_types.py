"""A page in place of media: nothing of it is written, the network's own is waited out, and who wants one gets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme

from engine import DownloadRequest, InvalidRequest, Reason, State, StateChanged, open_engine
from engine.net.addresses import AddressPolicy
from engine.net.trust import Trust
from tests.support.library import BIG_CHUNK, SMALL, claims, files_under, payload_of, small
from tests.support.origin import Asked, Reply, Script, serve
from tests.support.run import assert_complete, assert_failed, assert_nothing_published, run
from tests.support.tls import server_side

FILM = payload_of(30 * BIG_CHUNK + 11, seed=61)
PAGE = b"<html><title>Log in</title></html>"
HTML = Reply(body=PAGE, ranges=False, etag="", last_modified="", fields=(("Content-Type", "text/html; charset=utf-8"),))
VIDEO = Reply(fields=(("Content-Type", "video/mp4"),))


def always(reply: Reply) -> Script:
    return lambda _: reply


def request(url: str, **fields: object) -> DownloadRequest:
    return DownloadRequest(url=url, connections=3, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize("page", [HTML, replace(HTML, ranges=True), replace(HTML, framing="chunked")])
async def test_s42_a_page_under_a_media_name(library: Path, page: Reply) -> None:
    """Told at once, before a file is made, and not tried again by itself."""
    async with serve(FILM, always(page)) as origin:
        outcome = await run(library, request(origin.url("film.mp4")))
        assert_failed(outcome, "wrong_type", outcome.entry.attempts[-1].error.status)  # type: ignore[union-attr]
        assert (outcome.entry.attempt_count, outcome.stats.bytes_fetched) == (1, 0)
        assert not claims(library)
        assert files_under(library / "files") == set()
        origin.script = always(VIDEO)
        assert_complete(await run(library, request(origin.url("film.mp4"))), FILM)


@pytest.mark.parametrize("name", ["page", "page.html", "index.php", "notes.txt", "page?file=film.mp4"])
async def test_who_asks_for_a_page_gets_it(library: Path, name: str) -> None:
    async with serve(FILM, always(HTML)) as origin:
        assert_complete(await run(library, request(origin.url(name))), PAGE)


async def test_who_names_pages_gets_one_under_any_name(library: Path) -> None:
    async with serve(FILM, always(HTML)) as origin:
        assert_complete(await run(library, request(origin.url("film.mp4"), media_types=["text/*"])), PAGE)


@pytest.mark.parametrize(
    ("types", "code"), [((), ""), (("video/*",), ""), (("VIDEO/MP4",), ""), (("audio/*",), "wrong_type")]
)
async def test_the_types_that_were_asked_for(library: Path, types: tuple[str, ...], code: str) -> None:
    async with serve(FILM, always(VIDEO)) as origin:
        outcome = await run(library, request(origin.url("film"), media_types=types))
    assert outcome.code == code


async def test_types_are_on_record_and_count_at_the_next_run(library: Path) -> None:
    async with serve(FILM, lambda asked: VIDEO if asked.number <= 6 else Reply(status=404)) as origin:
        asked = request(origin.url("film"), media_types=["video/mp4"])
        assert_failed(await run(library, asked), "not_found", 404)
        held = assert_nothing_published(library, FILM)
        origin.script = always(replace(VIDEO, fields=(("Content-Type", "image/png"),)))
        async with open_engine(library, config=SMALL) as engine:
            entry = await engine.retry((await engine.list())[0].id)
            assert entry.media_types == ("video/mp4",)
            with engine.events(entry.id) as events:
                async for event in events:
                    if isinstance(event, StateChanged) and event.state is State.FAILED:
                        assert event.error is not None
                        assert event.error.code == "wrong_type"
                        break
        assert assert_nothing_published(library, FILM) == held
        origin.script = always(VIDEO)
        again = await run(library, asked)
    assert_complete(again, FILM)
    assert again.stats.bytes_resumed == held


@pytest.mark.parametrize("types", [["video"], "video/mp4", [5], ["*/*"] * 33, ["video/mp4; q=1"]])
async def test_types_that_are_none(library: Path, types: object) -> None:
    async with open_engine(library, config=SMALL) as engine:
        with pytest.raises(InvalidRequest, match="media_types"):
            await engine.offline(request("http://127.0.0.1/film", media_types=types))


PORTALS = {
    "its page in place of the file": HTML,
    "511": Reply(status=511),
    "a redirect to its own host": Reply(status=302, fields=(("Location", "http://localhost:{port}/login"),)),
}


# In place of the first byte nothing shows that a page is the network's: that is ``wrong_type``.
PORTAL_CASES = [(name, good) for name in PORTALS for good in (0, 6) if good or PORTALS[name] is not HTML]


@pytest.mark.parametrize(("name", "good"), PORTAL_CASES)
async def test_n15_a_network_that_wants_a_login_is_waited_out(library: Path, name: str, good: int) -> None:
    """PENDING for the network, at no try's cost; nothing of the page is written, and it goes on by itself."""
    portal = PORTALS[name]
    logged_in: list[bool] = []

    def script(asked: Asked) -> Reply:
        if asked.target == "/login":
            return HTML
        if logged_in or asked.number <= good:
            return VIDEO
        port = origin.base.rpartition(":")[2]
        return replace(portal, fields=tuple((key, value.format(port=port)) for key, value in portal.fields))

    trust = Trust(addresses=AddressPolicy(allow=("127.0.0.0/8", "::1/128")))
    async with serve(FILM, script) as origin:
        async with open_engine(library, config=small(backoff_max_s=0.01, breaker_failures=1000), trust=trust) as engine:
            with engine.events() as events:
                download = await engine.offline(request(origin.url("film.mp4")))
                waits = 0
                async for event in events:
                    if not isinstance(event, StateChanged) or event.reason is not Reason.NETWORK:
                        continue
                    waits += 1
                    assert event.error is not None
                    assert (event.error.code, event.state, event.tries) == ("captive_portal", State.PENDING, 0)
                    if waits == 12:  # more than there are tries
                        break
        held = assert_nothing_published(library, FILM)
        assert bool(held) == bool(good)
        logged_in.append(True)
        async with open_engine(library, config=SMALL, trust=trust) as engine:
            await engine.wait(download.id)
            assert engine.run_stats(download.id).bytes_fetched == len(FILM) - held
    assert claims(library)[0].part.generation == 1


async def test_s42_a_page_in_the_middle_is_not_another_version(library: Path) -> None:
    """A page of the same host, behind a redirect: the file's bytes stay, its generation too."""

    def script(asked: Asked) -> Reply:
        if asked.number <= 6:
            return VIDEO
        return HTML if asked.target == "/login" else Reply(status=302, fields=(("Location", "/login"),))

    async with serve(FILM, script) as origin:
        outcome = await run(library, request(origin.url("film")))
        assert_failed(outcome, "wrong_type", 200)
        held = assert_nothing_published(library, FILM)
        assert held > 0
        origin.script = always(VIDEO)
        again = await run(library, request(origin.url("film")))
    assert_complete(again, FILM)
    assert again.stats.bytes_resumed == held
    assert claims(library)[0].part.generation == 1


async def test_n15_511_over_https_is_the_servers_own(library: Path, authority: trustme.CA, cafile: str) -> None:
    """Found: it counted as the network's, so that it was asked again without an end; no network can answer there."""
    tls = server_side(authority, "localhost")
    async with serve(FILM, always(PORTALS["511"]), tls=tls, host="localhost") as origin:
        config = small(backoff_max_s=0.01, breaker_failures=1000)
        with trio.fail_after(20):
            outcome = await run(library, request(origin.url("film.mp4")), config=config, cafile=cafile)
    assert_failed(outcome, "http_5xx", 511)
    assert outcome.entry.attempt_count == len(origin.asked) == 1
