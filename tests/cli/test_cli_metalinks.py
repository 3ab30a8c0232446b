"""A Metalink's document comes over the line that its files may use, and when they may; until then it is not asked."""

from __future__ import annotations

import signal
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio
import trio.testing

from engine import AddressPolicy, DownloadRequest, Line, LinePolicy, StaticMonitor, Trust
from engine.cli import metalink_fetch
from engine.cli.metalink_fetch import Fetched, MetalinkFetch
from engine.config import DEFAULT_CONFIG, KIB
from engine.control import line_gate
from engine.errors import ConnectRefused, Stalled
from engine.model.lines import Interface
from engine.network.auto import AutoMonitor
from engine.network.monitor import NetworkMonitor
from tests.cli.support import SMALL, Said, WatchedOrigin, ended, run, started
from tests.cli.test_cli_line import other_hours
from tests.cli.test_cli_mirrors import metalink
from tests.support.netns import SERVER_ADDRESS, cable, inside
from tests.support.origin import Asked, Reply, serve

Cli = Callable[..., Said]
DOCUMENT = b"<metalink>" * (20 * KIB)
FREE = Line(connected=True, metered=False)
METERED = Line(connected=True, metered=True)
GONE = Line(connected=False)
MINDS = LinePolicy(allow_metered=False)
TRUST = Trust(addresses=AddressPolicy(allow=(SERVER_ADDRESS,)))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line settles at once, as good as."""
    monkeypatch.setattr(metalink_fetch, "DEFAULT_CONFIG", replace(DEFAULT_CONFIG, network_settle_s=0.05))


@pytest.fixture
def elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """The origins of these tests count as other machines, although they are not."""
    monkeypatch.setattr(line_gate, "is_here", lambda _: False)


class Fetch:
    """A document that is being fetched. ``waits``: what it was said to wait for, one after the other."""

    def __init__(self, url: str, line: Line, policy: LinePolicy) -> None:
        self.monitor = StaticMonitor(line)
        waiting, self.waits = trio.open_memory_channel[str](10)
        self._fetch = MetalinkFetch(DownloadRequest(url=url, line=policy), TRUST, waiting.send_nowait)
        self._ended = trio.Event()
        self._document: bytes | None = None

    async def run(self) -> None:
        self._document = (await self._fetch.run(self.monitor)).content
        self._ended.set()

    async def document(self) -> bytes | None:
        await self._ended.wait()
        return self._document


@asynccontextmanager
async def fetching(url: str, line: Line, policy: LinePolicy) -> AsyncIterator[Fetch]:
    fetch = Fetch(url, line, policy)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch.run)
            yield fetch


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize(
    ("line", "policy", "words"),
    [
        (METERED, MINDS, "for an unmetered line"),
        (GONE, LinePolicy(), "for a link to the network"),
        (FREE, LinePolicy(interfaces=("wg0",)), "for one of the interfaces that it may use"),
    ],
)
async def test_a_document_waits_for_the_line_that_its_files_wait_for(
    line: Line, policy: LinePolicy, words: str
) -> None:
    better = Line(connected=True, metered=False, interfaces=(Interface(name="wg0", up=True, routed=True),))
    async with serve(DOCUMENT) as origin, fetching(origin.url("x.meta4"), line, policy) as fetch:
        assert await fetch.waits.receive() == words
        assert origin.connections == 0
        fetch.monitor.set(better)
        assert await fetch.document() == DOCUMENT


@pytest.mark.usefixtures("elsewhere")
async def test_what_is_not_known_yet_is_not_told() -> None:
    """NetworkManager's word comes a moment after the kernel's."""
    unknown = Line(connected=True, metered=None)
    async with serve(DOCUMENT) as origin, fetching(origin.url("x.meta4"), unknown, MINDS) as fetch:
        await trio.testing.wait_all_tasks_blocked()
        assert origin.connections == 0
        fetch.monitor.set(FREE)
        assert await fetch.document() == DOCUMENT
        assert fetch.waits.statistics().current_buffer_used == 0


@pytest.mark.usefixtures("elsewhere")
@pytest.mark.parametrize("framing", ["length", "chunked"])
async def test_a_document_that_is_too_big_for_a_metered_line_waits_for_another(framing: str) -> None:
    """Its answer tells how big it is; one that tells nothing may be."""
    policy = LinePolicy(metered_bytes_max=len(DOCUMENT) - 1)

    def answer(_asked: Asked) -> Reply:
        return Reply(framing=framing, ranges=False)

    async with serve(DOCUMENT, answer) as origin, fetching(origin.url("x.meta4"), METERED, policy) as fetch:
        assert await fetch.waits.receive() == "for an unmetered line"
        assert len(origin.asked) == 1
        fetch.monitor.set(FREE)
        assert await fetch.document() == DOCUMENT
        assert len(origin.asked) == 2


@pytest.mark.usefixtures("elsewhere")
async def test_a_document_under_way_is_cut_off_when_the_line_becomes_metered() -> None:
    async with serve(DOCUMENT) as origin, fetching(origin.url("x.meta4"), FREE, MINDS) as fetch:
        origin.rate = 20 * KIB
        await origin.until_sent(10 * KIB)
        fetch.monitor.set(METERED)
        assert await fetch.waits.receive() == "for an unmetered line"
        assert len(origin.asked) == 1
        origin.rate = None
        fetch.monitor.set(FREE)
        assert await fetch.document() == DOCUMENT


async def test_a_document_comes_through_the_interface_that_its_files_go_through() -> None:
    """As the kernel tells it, over real links; also when a URL of this machine redirects there."""
    async with AsyncExitStack() as stack:
        pair = stack.enter_context(cable())
        pair.second()
        with inside(pair.server):
            far = await stack.enter_async_context(serve(DOCUMENT, host=SERVER_ADDRESS, address="0.0.0.0"))

        def away(asked: Asked) -> Reply:
            return Reply(status=302, fields=(("Location", far.url("x.meta4")),))

        here = await stack.enter_async_context(serve(DOCUMENT, away))
        for origin in (far, here):
            before = pair.received("spare")
            template = DownloadRequest(url=origin.url("x.meta4"), line=LinePolicy(interfaces=("spare",)))
            with trio.fail_after(30):
                assert (await MetalinkFetch(template, TRUST, pytest.fail).run(AutoMonitor())).content == DOCUMENT
            assert pair.received("spare") - before > len(DOCUMENT)
        asked = len(far.asked)
        async with fetching(here.url("x.meta4"), METERED, MINDS) as fetch:
            assert await fetch.waits.receive() == "for an unmetered line"
            assert len(far.asked) == asked
            fetch.monitor.set(FREE)
            assert await fetch.document() == DOCUMENT


@pytest.mark.usefixtures("elsewhere")
async def test_an_error_that_is_not_the_lines_doing_is_told_at_once() -> None:
    async with serve(DOCUMENT) as origin:
        url = origin.url("x.meta4")
    with pytest.raises(ConnectRefused):
        await MetalinkFetch(DownloadRequest(url=url), TRUST, pytest.fail).run(StaticMonitor(FREE))


async def test_a_document_that_drips_is_not_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte comes long before the idle timeout."""
    monkeypatch.setattr(metalink_fetch, "DOCUMENT_WITHIN_S", 0.5)
    async with serve(DOCUMENT) as origin:
        origin.rate = 20 * KIB
        template = DownloadRequest(url=origin.url("x.meta4"))
        with trio.fail_after(5), pytest.raises(Stalled, match=r"x\.meta4: the Metalink was not here within 0\.5 s"):
            await MetalinkFetch(template, TRUST, pytest.fail).run(StaticMonitor(FREE))
        assert 0 < origin.sent < len(DOCUMENT)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_get_waits_for_the_hours_of_a_metalink(
    served: dict[str, str], tmp_path: Path, root: Path, number: signal.Signals
) -> None:
    """As it does for a file's. It says so, and can be interrupted."""
    with WatchedOrigin({**served, "/film.meta4": str(tmp_path / "film.meta4")}) as origin:
        (tmp_path / "film.meta4").write_text(metalink(origin.url("/small.bin"), data=SMALL, pieces=False))
        url, hours = origin.url("/film.meta4"), other_hours()
        with started("--root", root, "get", "--hours", hours, url) as process:
            assert process.stderr is not None
            assert process.stderr.readline() == f"waiting for its hours, {hours}: {url}\n"
            process.send_signal(number)
            said = ended(process)
        assert (said.code, said.out, said.err) == (130, "", "offline-engine: interrupted\n")
        assert origin.heads == []
        assert run("--root", root, "get", "--hours", "00:00-24:00", url).code == 0


@pytest.mark.parametrize("options", [(), ("--no-progress",)])
def test_what_is_waited_for_is_a_note(
    cli: Cli, origin: WatchedOrigin, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    async def waited(fetch: MetalinkFetch, _monitor: NetworkMonitor) -> Fetched:
        fetch._waits("for rain")
        content = metalink(origin.url("/small.bin"), data=SMALL, pieces=False).encode()
        return Fetched(content, fetch._url, named=True, at_home=True)

    monkeypatch.setattr(MetalinkFetch, "run", waited)
    said = cli("get", *options, "http://127.0.0.1:9/x.meta4")
    assert said.code == 0
    assert ("waiting for rain: http://127.0.0.1:9/x.meta4\n" in said.err) is not bool(options)


# Whose word a document is that was redirected

STRANGER = "127.0.0.9"  # stands for a public address: let be reached


class Redirects(WatchedOrigin):
    """Answers ``/x.meta4`` with a redirect ``to`` there."""

    to = ""

    def answer(self, connection: socket.socket, head: str) -> None:
        if "/x.meta4 " in head:
            self.heads.append(head)
            connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {self.to}\r\nContent-Length: 0\r\n\r\n".encode())
        else:
            super().answer(connection, head)

    def passes(self) -> list[bool]:
        """Of each request for what a stranger has no business to name: whether the header field came along."""
        return ["X-Pass: word" in head for head in self.heads if "/admin/" in head]


class Stranger(WatchedOrigin):
    """An origin at another address."""

    def __init__(self, files: dict[str, str]) -> None:
        super().__init__(files)
        self._listener.close()
        self._listener = socket.create_server((STRANGER, 0))

    def url(self, path: str) -> str:
        return super().url(path).replace("127.0.0.1", STRANGER)


@dataclass
class Two:
    """The caller's own origin, which redirects to a stranger's, whose document names a file of the first one."""

    own: Redirects
    stranger: Stranger

    def get(self, cli: Cli, *options: str) -> Said:
        return cli("get", "--json", "--allow-address", STRANGER, *options, self.own.url("/x.meta4"))


@pytest.fixture
def two(served: dict[str, str], tmp_path: Path) -> Iterator[Two]:
    document = str(tmp_path / "any.meta4")
    files = {"/admin/a.bin": served["/small.bin"], "/own.meta4": document}
    with Redirects(files) as own, Stranger({"/any.meta4": document}) as stranger:
        Path(document).write_text(metalink(own.url("/admin/a.bin"), data=SMALL, pieces=False))
        own.to = stranger.url("/any.meta4")
        yield Two(own, stranger)


def test_a_document_that_was_redirected_is_a_strangers_and_names_no_addresses(cli: Cli, two: Two) -> None:
    """The caller's word is the address that redirected, not what the one behind it has to say."""
    said = two.get(cli).object
    assert (said["state"], said["error"]["code"], said["error"]["fault"]) == ("failed", "address_refused", "server")
    assert len(two.stranger.heads) == 1
    assert two.own.passes() == []
    two.own.to = two.own.url("/own.meta4")  # its origin stays the one that the caller named
    assert two.get(cli).object["state"] == "completed"


def test_header_fields_are_not_for_what_a_strangers_document_names(cli: Cli, two: Two) -> None:
    """Who could send us back to the origin that they are for would choose what they are used for."""
    options = ("--allow-address", "127.0.0.1", "--header", "X-Pass: word")
    said = two.get(cli, *options)
    assert (said.code, said.out) == (2, "")
    assert f"redirected to {two.stranger.url('')}: name with --header-origin" in said.err
    assert two.own.passes() == []
    assert two.get(cli, *options, "--header-origin", "https://other.example").code == 0
    assert two.own.passes() == [False]
    assert "X-Pass" not in two.stranger.heads[-1]


def test_a_redirect_to_whom_the_header_fields_are_for_leaves_them_as_they_are(cli: Cli, two: Two) -> None:
    options = ("--allow-address", "127.0.0.1", "--header", "X-Pass: word", "--header-origin", two.stranger.url(""))
    assert two.get(cli, *options).code == 0
    assert "X-Pass: word" in two.stranger.heads[-1]
    assert two.own.passes() == [True]
