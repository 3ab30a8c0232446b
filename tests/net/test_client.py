"""Client over real sockets: requests as sent, redirects and credentials, reuse, retries, errors of dialing."""

from __future__ import annotations

import socket

import pytest
import trio

from engine.config import Config
from engine.errors import (
    BadRedirect,
    ConnectionLost,
    ConnectRefused,
    ConnectTimeout,
    DnsError,
    EngineClosed,
    InvalidRequest,
    ProtocolViolation,
    Stalled,
    TransferError,
)
from engine.net.addresses import AddressPolicy
from engine.net.client import Client
from engine.net.connection import Exchange
from engine.net.trust import Trust
from engine.net.url import Url, parse_url
from tests.net.script_server import Asked, End, Script, ScriptServer, Step, answer, serve

QUICK = Config(connect_timeout_s=1.0, first_byte_timeout_s=1.0, idle_timeout_s=1.0)
HERE = Trust(addresses=AddressPolicy(allow=("127.0.0.0/8",)))  # names and redirects may lead to this machine
Fields = tuple[tuple[str, str], ...]


def redirect(location: str, status: str = "302 Found", body: bytes = b"moved") -> bytes:
    return answer(body, f"Location: {location}", status=status)


async def get(client: Client, url: Url, fields: Fields = ()) -> tuple[Exchange, bytes]:
    async with client.get(url, fields=fields) as exchange:
        view = memoryview(bytearray(64 * 1024))
        return exchange, bytes(view[: await exchange.fill(view)])


async def test_the_request_is_exactly_this() -> None:
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"x")]) as server:
        url = server.url("/a%20b?c=d")
        async with client.get(url, range=(5, 10), fields=(("X-A", "b"),), if_range='"e"') as exchange:
            assert exchange.url == url
        lines = server.asked[0].raw.decode().split("\r\n")
    assert lines[0] == "GET /a%20b?c=d HTTP/1.1"
    fields = dict(line.split(": ", 1) for line in lines[1:-2])
    assert fields.pop("User-Agent").startswith("offline-engine")
    assert fields == {
        "Host": url.host_header, "Accept": "*/*", "Accept-Encoding": "identity", "Range": "bytes=5-9",
        "If-Range": '"e"', "X-A": "b",
    }  # fmt: skip
    await client.aclose()


@pytest.mark.parametrize(
    ("asked", "field"), [((0, None), "bytes=0-"), ((0, 1), "bytes=0-0"), ((7, 9), "bytes=7-8"), (None, None)]
)
async def test_ranges(asked: tuple[int, int | None] | None, field: str | None) -> None:
    client = Client(QUICK)
    async with serve(lambda _: [answer()]) as server:
        async with client.get(server.url(), range=asked):
            pass
        assert server.asked[0].get("range") == field
    await client.aclose()


async def test_a_callers_user_agent_takes_the_place_of_ours() -> None:
    client = Client(QUICK)
    async with serve(lambda _: [answer()]) as server:
        await get(client, server.url(), (("user-agent", "mine"),))
        assert [value for name, value in server.asked[0].fields if name == "user-agent"] == ["mine"]
    await client.aclose()


@pytest.mark.parametrize(
    "options",
    [{"range": (5, 5)}, {"range": (-1, 5)}, {"if_range": '"x"'}, {"fields": [("Host", "x")]},
     {"range": (0, 5), "if_range": "a\r\nB: c"}],
)  # fmt: skip
async def test_m17_m18_bad_requests_are_refused_before_anything_is_sent(options) -> None:  # type: ignore[no-untyped-def]
    client = Client(QUICK)
    async with serve(lambda _: [answer()]) as server:
        with pytest.raises(InvalidRequest):
            await client.open(server.url(), **options)
        assert server.asked == []
    assert "active=0" in repr(client.pool)
    await client.aclose()


# Redirects


@pytest.mark.parametrize("status", ["301 x", "302 x", "303 x", "307 x", "308 x"])
async def test_redirects_are_followed_on_one_connection(status: str) -> None:
    client = Client(QUICK)

    def script(asked: Asked) -> list[Step]:
        return [redirect("/b", status)] if asked.target == "/a" else [answer(b"there")]

    async with serve(script) as server:
        exchange, body = await get(client, server.url("/a"), (("X-Key", "k"),))
        assert body == b"there"
        assert exchange.url == server.url("/b")
        assert exchange.redirected
        assert exchange.permanent_url == (server.url("/b") if status[:3] in ("301", "308") else None)
        assert [asked.get("x-key") for asked in server.asked] == ["k", "k"]
        assert server.connections == 1
    await client.aclose()


async def test_only_an_unbroken_row_of_permanent_redirects_is_permanent() -> None:
    client = Client(QUICK)
    steps = {"/a": redirect("/b", "301 x"), "/b": redirect("/c", "302 x"), "/c": redirect("/d", "301 x")}
    async with serve(lambda asked: [steps.get(asked.target, answer())]) as server:
        exchange, _ = await get(client, server.url("/a"))
        assert (exchange.url, exchange.permanent_url) == (server.url("/d"), server.url("/b"))
    await client.aclose()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
async def test_s33_callers_fields_never_cross_an_origin_nor_come_back(host: str) -> None:
    """There (another host, or only another port) and back again: whatever its name or spelling, nothing is sent."""
    client = Client(QUICK, trust=HERE)
    secrets = (("Authorization", "Bearer s"), ("cookie", "a=s"), ("X-Api-Key", "s"), ("AUTHORIZATION", "s"))
    other: ScriptServer

    def home(asked: Asked) -> list[Step]:
        return [redirect(f"{other.base}/away")] if asked.target == "/start" else [answer(b"home")]

    def away(asked: Asked) -> list[Step]:
        return [redirect(f"{first.base}/back")]

    async with serve(home) as first, serve(away, host=host) as other:
        _, body = await get(client, first.url("/start"), secrets)
        assert body == b"home"
        assert first.asked[0].get("x-api-key") == "s"
        for asked in (other.asked[0], first.asked[1]):
            assert {name for name, _ in asked.fields} == {"host", "user-agent", "accept", "accept-encoding"}
            assert b"s3" not in asked.raw
    await client.aclose()


REFUSED_REDIRECTS = {
    "S29 loop": lambda asked: [redirect("/b" if asked.target == "/a" else "/a")],
    "S29 to itself": lambda asked: [redirect(asked.target)],
    "S29 endless": lambda asked: [redirect(f"{asked.target}x")],
    "S31 ftp": lambda _: [redirect("ftp://h/x")],
    "S31 file": lambda _: [redirect("file:///etc/passwd")],
    "S31 data": lambda _: [redirect("data:,x")],
    "userinfo": lambda _: [redirect("http://u:p@h/")],
    "no Location": lambda _: [answer(status="302 Found")],
    "two Locations": lambda _: [answer(b"", "Location: /b", "Location: /c", status="302 Found")],
    "space in Location": lambda _: [redirect("/a b")],
}


@pytest.mark.parametrize("name", REFUSED_REDIRECTS)
async def test_refused_redirects(name: str) -> None:
    client = Client(QUICK)
    async with serve(REFUSED_REDIRECTS[name]) as server:
        with pytest.raises(BadRedirect):
            await get(client, server.url("/a"))
        assert len(server.asked) <= QUICK.redirects_max + 1
    assert "active=0 connecting=0" in repr(client.pool)
    await client.aclose()


async def test_ten_redirects_are_followed() -> None:
    client = Client(QUICK)
    goal = "/a" + "x" * 10
    async with serve(lambda a: [answer(b"end") if a.target == goal else redirect(f"{a.target}x")]) as server:
        assert (await get(client, server.url("/a")))[1] == b"end"
    await client.aclose()


@pytest.mark.parametrize(
    "first",
    [[redirect("/b", body=b"x" * 70000)], [b"HTTP/1.1 302 x\r\nLocation: /b\r\n\r\nendless"],
     [answer(b"", "Location: /b", status="302 x", length=100), End.CLOSE],
     [answer(b"", "Location: /b", status="302 x", length=100), End.HANG]],
)  # fmt: skip
async def test_a_redirects_body_is_no_obstacle(first: list[Step]) -> None:
    client = Client(QUICK)
    async with serve(lambda asked: first if asked.target == "/a" else [answer(b"there")]) as server:
        assert (await get(client, server.url("/a")))[1] == b"there"
        assert server.connections == 2
    await client.aclose()


# Reuse


async def test_keep_alive_reuses_one_connection() -> None:
    client = Client(QUICK)
    async with serve(lambda asked: [answer(b"%d" % asked.number)]) as server:
        bodies = [(await get(client, server.url()))[1] for _ in range(5)]
        assert (bodies, server.connections) == ([b"1", b"2", b"3", b"4", b"5"], 1)
    await client.aclose()


@pytest.mark.parametrize(
    ("script", "connections"),
    [
        (lambda _: [answer(b"x", "Connection: close")], 3),
        (lambda _: [b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx"], 3),
        (lambda _: [b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\nx"], 1),
        (lambda _: [answer(b"x"), End.CLOSE], 3),
        (lambda _: [answer(b"x"), 0.02, b"junk"], 3),
    ],
)
async def test_s39_only_a_clean_connection_is_reused(script: Script, connections: int) -> None:
    client = Client(QUICK)
    async with serve(script) as server:
        for _ in range(3):
            assert (await get(client, server.url()))[1] == b"x"
            await trio.sleep(0.05)
        assert server.connections == connections
    await client.aclose()


async def test_n19_a_reused_connection_that_dies_unanswered_is_replaced_once() -> None:
    client = Client(QUICK)
    async with serve(lambda asked: [answer(b"x")] if asked.number == 1 else [End.RESET]) as server:
        for _ in range(3):
            assert (await get(client, server.url()))[1] == b"x"
        assert server.connections == 3
        assert [asked.number for asked in server.asked] == [1, 2, 1, 2, 1]
    await client.aclose()


async def test_n19_a_fresh_connection_that_dies_is_not_replaced() -> None:
    client = Client(QUICK)
    async with serve(lambda _: [End.CLOSE]) as server:
        with pytest.raises(ConnectionLost):
            await get(client, server.url())
        assert server.connections == 1
    await client.aclose()


async def test_n19_half_an_answer_is_not_asked_for_again() -> None:
    client = Client(QUICK)
    async with serve(lambda asked: [answer(b"x")] if asked.number == 1 else [b"HTTP/1.1 2", End.CLOSE]) as server:
        await get(client, server.url())
        with pytest.raises(ConnectionLost):
            await get(client, server.url())
        assert server.connections == 1
    await client.aclose()


# Errors


@pytest.mark.parametrize(
    ("steps", "error"),
    [([End.HANG], Stalled), ([b"HTTP/1.1 200 OK\r\n", End.HANG], Stalled), ([b"SSH-2.0-x\r\n"], ProtocolViolation),
     ([b"HTTP/1.1 200 OK\r\n", End.CLOSE], ConnectionLost), ([b"HTTP/1.1 100 Continue\r\n\r\n", End.HANG], Stalled),
     ([End.RESET], ConnectionLost)],
)  # fmt: skip
async def test_errors_before_the_head_name_the_url_without_its_secrets(
    steps: list[Step], error: type[TransferError]
) -> None:
    client = Client(QUICK)
    async with serve(lambda _: steps) as server:
        with pytest.raises(error) as caught:
            await get(client, server.url("/a?token=s3cret"))
    assert "/a?token=…" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=1>"
    await client.aclose()


async def test_s43_an_answer_sent_early_is_still_read() -> None:
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"no", status="400 Bad Request"), End.CLOSE]) as server:
        exchange, body = await get(client, server.url())
        assert (exchange.head.status, body) == (400, b"no")
    await client.aclose()


async def test_n3_refused() -> None:
    client = Client(QUICK)
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectRefused):
            await get(client, parse_url(f"http://127.0.0.1:{unheard.getsockname()[1]}/"))
    await client.aclose()


class Names(trio.abc.HostnameResolver):
    """A resolver of one answer."""

    def __init__(self, address: str | None) -> None:
        self._address = address

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002
        await trio.lowlevel.checkpoint()
        if self._address is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (self._address, port))]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


async def test_n1_unknown_host() -> None:
    client = Client(QUICK)
    trio.socket.set_custom_hostname_resolver(Names(None))
    with pytest.raises(DnsError):
        await get(client, parse_url("http://nowhere.example/"))
    assert "active=0 connecting=0" in repr(client.pool)
    await client.aclose()


async def test_the_resolver_is_the_seam() -> None:
    client = Client(QUICK, trust=HERE)
    trio.socket.set_custom_hostname_resolver(Names("127.0.0.1"))
    async with serve(lambda _: [answer(b"x")], host="media.example") as server:
        assert (await get(client, server.url()))[1] == b"x"
        assert server.asked[0].get("host") == server.url().host_header
    await client.aclose()


async def test_n4_a_host_that_does_not_answer() -> None:
    """A listener whose queue is full drops every further SYN."""
    client = Client(QUICK)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        with pytest.raises(ConnectTimeout):
            await get(client, parse_url(f"http://127.0.0.1:{deaf.getsockname()[1]}/"))
        for filler in fillers:
            filler.close()
    await client.aclose()


# Closing and cancelling


async def test_closed_client_refuses_and_ends_what_runs() -> None:
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"h", length=5), End.HANG]) as server, trio.open_nursery() as nursery:

        async def reads() -> None:
            with pytest.raises(EngineClosed):
                await get(client, server.url())

        nursery.start_soon(reads)
        await trio.sleep(0.05)
        await client.aclose()
        nursery.start_soon(reads)
    assert "active=0 connecting=0 idle=0" in repr(client.pool)


@pytest.mark.parametrize(
    "steps",
    [[End.HANG], [b"HTTP/1.1 200 OK\r\nContent-", End.HANG], [answer(b"h", length=5), End.HANG],
     [b"HTTP/1.1 200 OK\r\n\r\n", End.HANG],
     [b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhe", End.HANG],
     [redirect("/b")[:-3], End.HANG]],
)  # fmt: skip
async def test_c18_h8_whatever_hangs_when_cancelled_the_pool_ends_empty(steps: list[Step]) -> None:
    client = Client(Config())
    async with serve(lambda _: steps) as server:
        with trio.move_on_after(0.05) as scope:
            await get(client, server.url())
        assert scope.cancelled_caught
    assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=1>"
    await client.aclose()


async def test_c18_cancelled_while_connecting() -> None:
    client = Client(Config())

    class Hanging(Names):
        async def getaddrinfo(self, *args, **kwargs):  # type: ignore[no-untyped-def]
            await trio.sleep_forever()

    trio.socket.set_custom_hostname_resolver(Hanging(None))
    with trio.move_on_after(0.05) as scope:
        await get(client, parse_url("http://nowhere.example/"))
    assert scope.cancelled_caught
    assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=0>"
    await client.aclose()
