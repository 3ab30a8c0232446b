"""Where a source is asked just now, against a client of paper: how often, by whom, for how long (S36)."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing

from engine.config import Config
from engine.errors import RefreshFailed
from engine.model.records import DownloadEntry
from engine.model.resolve import Resolve, Resolved, Resolver
from engine.net.head import scan_head
from engine.net.pacing import Pace, Pacing
from engine.net.url import Url, parse_url
from engine.transfer.memories import ENTRIES_REMEMBERED_MAX, ORIGINS_REMEMBERED_MAX, Memories
from engine.transfer.refresh import Place
from engine.transfer.services import Services
from engine.transfer.whereabouts import Whereabouts

NOW = 1_700_000_000.0
FILM = parse_url("https://host.example/film")
ENTRY = DownloadEntry(id="film", sources=(str(FILM),))


@dataclass
class PaperClient:
    """Answers with what ``status`` says of a path; a redirect is followed at once, to its ``location``."""

    status: Callable[[str], int] = lambda path: 206
    location: Callable[[], str] | None = None
    asked: list[str] = field(default_factory=list)

    async def open(self, url: Url, **_: object) -> Any:
        redirected = self.location is not None and url.target == "/film"
        if redirected and self.location is not None:
            self.asked.append(url.target)
            url = parse_url(f"https://cdn.example{self.location()}")
        self.asked.append(url.target)
        await trio.sleep(0.1)
        head = scan_head(f"HTTP/1.1 {self.status(url.target)} X\r\nContent-Length: 5\r\n\r\n".encode(), Config())
        return SimpleNamespace(
            head=head, url=url, redirected=redirected, sent_fields=(), named=False, digest=None,
            release=lambda: None, set_pace=lambda _: None,
        )  # fmt: skip


def services_of(client: PaperClient, resolver: Resolver | None = None, **config: Any) -> Services:
    pacing = SimpleNamespace(of=lambda _: Pace(Pacing(0), None))
    made = SimpleNamespace(
        client=client, config=Config(**config), now=lambda: NOW + trio.current_time(), pacing=pacing,
        resolver=resolver, memories=Memories(),
    )  # fmt: skip
    return cast(Services, made)


def whereabouts(services: Services, url: Url = FILM, fields: tuple[tuple[str, str], ...] = ()) -> Whereabouts:
    return Whereabouts(services, ENTRY, url, fields)


@dataclass
class Asked:
    """A resolver that counts."""

    ends_after_s: float | None = None
    same: bool = False
    times: list[float] = field(default_factory=list)

    async def __call__(self, entry: DownloadEntry, why: Resolve) -> Resolved:
        self.times.append(trio.current_time())
        await trio.sleep(1.0)
        ends_at = None if self.ends_after_s is None else NOW + trio.current_time() + self.ends_after_s
        return Resolved(str(FILM) if self.same else f"https://host.example/{len(self.times)}", None, ends_at)


async def test_the_host_is_asked_once_for_all_and_once_in_five_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    resolver = Asked()
    good: set[str] = {"/2"}
    client = PaperClient(lambda path: 206 if path in good else 403)
    where = whereabouts(services_of(client, resolver))
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(where.open, (0, 5))
    assert len(resolver.times) == 1, "its URL was refused too: that is told, not asked about again at once"
    assert (await where.open((0, 5))).head.status == 206
    assert resolver.times[1] - resolver.times[0] == pytest.approx(Config().resolve_interval_s)


async def test_the_same_url_again_is_no_other(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Asked(same=True)
    where = whereabouts(services_of(PaperClient(lambda _: 410), resolver))
    assert (await where.open(None)).head.status == 410
    assert len(resolver.times) == 1


@pytest.mark.parametrize(("lead_s", "asked"), [(10.0, 1), (30.0, 2), (60.0, 2)])
async def test_it_is_asked_so_long_before_the_end(
    autojump_clock: trio.testing.MockClock, lead_s: float, asked: int
) -> None:
    resolver = Asked(ends_after_s=30.0)
    entry = DownloadEntry(id="film", sources=(f"{FILM}?exp={int(NOW) + 5}",))
    services = services_of(PaperClient(), resolver, url_expiry_lead_s=lead_s)
    where = Whereabouts(services, entry, parse_url(entry.url), ())
    await where.open(None)
    await trio.sleep(Config().resolve_interval_s)
    await where.open(None)
    assert len(resolver.times) == asked


async def test_an_end_that_is_always_near_costs_one_question_in_five_seconds(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The host's clock may be another: nobody waits for that."""
    resolver = Asked(ends_after_s=1.0)
    entry = DownloadEntry(id="film", sources=(f"{FILM}?exp={int(NOW) + 5}",))
    where = Whereabouts(services_of(PaperClient(), resolver), entry, parse_url(entry.url), ())
    began = trio.current_time()
    for _ in range(100):
        await where.open(None)
    took = trio.current_time() - began
    assert len(resolver.times) == pytest.approx(took / Config().resolve_interval_s, abs=1.5)
    assert took == pytest.approx(100 * 0.1 + len(resolver.times) * 1.0)


async def test_a_redirect_is_kept_for_its_time(autojump_clock: trio.testing.MockClock) -> None:
    client = PaperClient(location=lambda: "/signed")
    where = whereabouts(services_of(client, redirect_kept_s=60.0))
    for _ in range(5):
        exchange = await where.open(None)
        assert exchange.redirected, "what comes from there may have expired, though the URL itself is fine"
    assert client.asked == ["/film", *["/signed"] * 5]
    await trio.sleep(61.0)
    await where.open(None)
    assert client.asked.count("/film") == 2


async def test_a_chain_whose_end_is_refused_again_is_not_walked_all_the_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Each new end is good for two requests: one walk in five seconds, and no refusal is told."""
    uses: dict[str, int] = {}
    walks: list[float] = []

    def location() -> str:
        walks.append(trio.current_time())
        return f"/signed-{len(walks)}"

    def status(path: str) -> int:
        uses[path] = uses.get(path, 0) + 1
        return 206 if uses[path] <= 2 else 404

    where = whereabouts(services_of(PaperClient(status, location)))
    for _ in range(9):
        assert (await where.open(None)).head.status == 206
    assert min(b - a for a, b in pairwise(walks[1:])) >= Config().resolve_interval_s


async def test_those_who_wait_for_a_walk_do_not_walk(autojump_clock: trio.testing.MockClock) -> None:
    client = PaperClient(lambda path: 206 if path != "/a" else 403, lambda: "/b")
    services = services_of(client)
    where = whereabouts(services)
    await where.open(None)
    memory = services.memories.of("film", Place.at(FILM, ()))
    assert memory.behind is not None
    memory.behind = Place.at(parse_url("https://cdn.example/a"), ())
    memory.served = 1
    async with trio.open_nursery() as nursery:
        for _ in range(8):
            nursery.start_soon(where.open, None)
    assert client.asked.count("/film") == 2


async def test_a_resolver_that_never_answers_is_left(autojump_clock: trio.testing.MockClock) -> None:
    async def resolver(_: DownloadEntry, __: Resolve) -> Resolved | None:
        await trio.sleep_forever()
        raise AssertionError

    where = whereabouts(services_of(PaperClient(lambda _: 403), resolver))
    began = trio.current_time()
    with pytest.raises(RefreshFailed, match="30 s"):
        await where.open(None)
    assert trio.current_time() - began == pytest.approx(Config().resolver_timeout_s + 0.1)


async def test_a_failure_ahead_of_time_is_logged_and_no_more(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async def resolver(_: DownloadEntry, __: Resolve) -> Resolved | None:
        raise OSError("https://host/?sig=SECRET")

    caplog.set_level(logging.WARNING)
    for ends_in_s, good in ((20, True), (-20, False)):
        entry = DownloadEntry(id="film", sources=(f"{FILM}?exp={int(NOW) + ends_in_s}",))
        where = Whereabouts(services_of(PaperClient(), resolver), entry, parse_url(entry.url), ())
        if good:
            assert (await where.open(None)).head.status == 206
            continue
        with pytest.raises(RefreshFailed):
            await where.open(None)
    assert "OSError" in caplog.text
    assert "SECRET" not in caplog.text


async def test_the_host_is_not_asked_for_mirrors(autojump_clock: trio.testing.MockClock) -> None:
    resolver = Asked()
    where = whereabouts(services_of(PaperClient(lambda _: 403), resolver), parse_url("https://mirror.example/film"))
    assert (await where.open(None)).head.status == 403
    assert resolver.times == []


async def test_what_the_host_gave_is_forgotten_when_the_entry_gets_other_headers(
    autojump_clock: trio.testing.MockClock,
) -> None:
    client = PaperClient(lambda path: 403 if path == "/film" else 206)
    services = services_of(client, Asked())
    await whereabouts(services).open(None)
    await whereabouts(services).open(None)
    assert client.asked == ["/film", "/1", "/1"]
    await whereabouts(services, fields=(("X-Key", "new"),)).open(None)
    assert client.asked[3:] == ["/film", "/2"]


def test_what_is_remembered_is_bounded() -> None:
    memories = Memories()
    first = memories.of("0", Place.at(FILM, ()))
    assert memories.of("0", Place.at(FILM, ())) is first
    for number in range(1, ENTRIES_REMEMBERED_MAX + 1):
        memories.of(f"{number}", Place.at(FILM, ()))
    assert memories.of("0", Place.at(FILM, ())) is not first
    for number in range(ORIGINS_REMEMBERED_MAX + 1):
        memories.no_if_range(parse_url(f"https://h{number}.example/").origin)
    assert memories.understands_if_range(parse_url("https://h0.example/").origin)
    assert not memories.understands_if_range(parse_url("https://h1.example/").origin)
