"""Whom the client connects to, and what it tells them: addresses, redirects, ports, bound fields, netrc."""

from __future__ import annotations

import socket
from collections.abc import Sequence
from pathlib import Path

import pytest
import trio

from engine.config import Config
from engine.errors import AddressRefused, ConnectRefused, ConnectTimeout, Fault, InvalidRequest, TransferError
from engine.net.addresses import AddressPolicy
from engine.net.client import Client
from engine.net.trust import ClientCertificate, Trust, parse_origin
from engine.net.url import FOREIGN_PORTS, Origin, parse_url
from tests.net.script_server import Asked, ScriptServer, Step, answer, serve

QUICK = Config(connect_timeout_s=2.0, first_byte_timeout_s=2.0, idle_timeout_s=2.0)
HERE = Trust(addresses=AddressPolicy(allow=("127.0.0.0/8",)))
Fields = tuple[tuple[str, str], ...]


def redirect(location: str) -> bytes:
    return answer(b"", f"Location: {location}", status="302 Found")


async def get(
    client: Client, url: str, fields: Fields = (), *, home: Sequence[Origin] | None = None, named: bool = True
) -> bytes:
    async with client.get(parse_url(url), fields=fields, home=home, named=named) as exchange:
        view = memoryview(bytearray(100))
        return bytes(view[: await exchange.fill(view)])


class Names(trio.abc.HostnameResolver):
    """Answers with these addresses in turn, the last one for ever; counts the questions."""

    def __init__(self, *answers: tuple[str, ...]) -> None:
        self.answers = list(answers)
        self.asked = 0

    async def getaddrinfo(self, host, port, family=0, type=0, proto=0, flags=0):  # type: ignore[no-untyped-def]  # noqa: A002
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", (address, port, 0, 0))
            if ":" in address
            else (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in answer
        ]

    async def getnameinfo(self, sockaddr, flags):  # type: ignore[no-untyped-def]
        raise NotImplementedError


REFUSED_NAMES = ["127.0.0.1", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "fd00:ec2::254", "0.0.0.0"]


@pytest.mark.parametrize("address", REFUSED_NAMES)
async def test_n2_a_name_that_leads_inside_is_refused(address: str) -> None:
    """Also when the caller asks for it: what it leads to is another's word."""
    client = Client(QUICK)
    trio.socket.set_custom_hostname_resolver(Names((address,)))
    with pytest.raises(AddressRefused, match=r"http://media\.example:81/x") as raised:
        await get(client, "http://media.example:81/x?token=s3cret")
    assert "s3cret" not in str(raised.value)
    assert (raised.value.code, raised.value.fault, raised.value.retryable) == ("address_refused", Fault.CALLER, False)
    assert "--allow-address" in raised.value.advice
    assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=0>"
    await client.aclose()


async def test_n2_only_what_passed_is_dialed_and_nothing_is_resolved_twice() -> None:
    """Of several addresses the bad ones are left out. A resolver that changes its mind afterwards (rebinding) is not
    asked again: the address that was judged is the one that is connected to."""
    names = Names(("10.0.0.1", "127.0.0.1", "192.168.0.1"), ("10.0.0.1",))
    client = Client(QUICK, trust=HERE)
    trio.socket.set_custom_hostname_resolver(names)
    async with serve(lambda _: [answer(b"x")], host="media.example") as server:
        assert await get(client, server.base) == b"x"
        assert await get(client, server.base) == b"x"
        assert (server.connections, names.asked) == (1, 1)
    await client.aclose()


async def test_n2_of_several_addresses_those_that_are_refused_are_not_dialed() -> None:
    """Though somebody listens there, and they come first."""
    client = Client(QUICK, trust=Trust(addresses=AddressPolicy(allow=("127.0.0.1",))))
    trio.socket.set_custom_hostname_resolver(Names(("127.0.0.2", "127.0.0.1", "127.0.0.3")))
    async with serve(lambda _: [answer(b"x")], host="media.example") as server:
        with socket.create_server(("127.0.0.2", server.url().port)) as other:
            other.setblocking(False)
            assert await get(client, server.base) == b"x"
            with pytest.raises(BlockingIOError):
                other.accept()
    await client.aclose()


async def test_n5_a_broken_first_address_costs_a_head_start_only() -> None:
    """The first refuses, another family comes second, the third one answers."""
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.9", 0))
        client = Client(QUICK, trust=Trust(addresses=AddressPolicy(allow=("127.0.0.0/8", "::1"))))
        trio.socket.set_custom_hostname_resolver(Names(("127.0.0.9", "127.0.0.8", "127.0.0.1", "::1")))
        async with serve(lambda _: [answer(b"x")], host="media.example") as server:
            assert await get(client, server.base) == b"x"
        with pytest.raises(ConnectRefused, match="refused"):
            await get(client, f"http://media.example:{unheard.getsockname()[1]}/")
    await client.aclose()


async def test_n4_n5_of_addresses_that_do_not_answer_none_is_waited_for_alone() -> None:
    """A listener with a full queue drops every SYN; the next address is tried beside it."""
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.7", 0))
        deaf.listen(0)
        port = deaf.getsockname()[1]
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(deaf.getsockname())
        client = Client(Config(connect_timeout_s=0.4), trust=HERE)
        trio.socket.set_custom_hostname_resolver(Names(("127.0.0.7", "127.0.0.7"), ("127.0.0.7", "127.0.0.6")))
        with pytest.raises(ConnectTimeout):
            await get(client, f"http://media.example:{port}/")
        with socket.socket() as listening:
            listening.bind(("127.0.0.6", port))
            listening.listen(4)
            link = await client.pool.acquire(parse_url(f"http://media.example:{port}/").origin)
            link.close()
            client.pool.release(link, False)
        for filler in fillers:
            filler.close()
    await client.aclose()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_what_the_caller_names_himself_is_his_word(host: str) -> None:
    usual, public = Client(QUICK), Client(QUICK, trust=Trust(addresses=AddressPolicy(named=False)))
    async with serve(lambda _: [answer(b"x")], host=host) as server:
        assert await get(usual, server.base) == b"x"
        with pytest.raises(AddressRefused, match="loopback"):
            await get(public, server.base)
        with pytest.raises(AddressRefused) as raised:  # a mirror in a list, a segment in a manifest
            await get(usual, server.base, named=False)
        assert raised.value.fault is Fault.SERVER
        assert server.connections == 1, "nor was the idle connection used for it"
    await usual.aclose()
    await public.aclose()


@pytest.mark.parametrize(
    "url", ["http://169.254.169.254/", "http://[fe80::1]/", "http://0.0.0.0:9/", "http://224.0.0.1/"]
)
async def test_nobody_names_metadata_or_link_local_addresses(url: str) -> None:
    client = Client(QUICK)
    with pytest.raises(AddressRefused):
        await get(client, url)
    await client.aclose()


async def test_s32_a_redirect_inside_is_refused() -> None:
    """Another port on the same machine, its name, its other spelling; but not the caller's own origin."""
    client = Client(QUICK)
    async with serve(lambda _: [answer(b"secret")]) as inner:

        def script(asked: Asked) -> list[Step]:
            return [answer(b"home")] if asked.target == "/home" else [redirect(targets[asked.target])]

        async with serve(script) as outer:
            port = outer.url().port
            targets = {
                "/port": inner.base,
                "/name": inner.base.replace("127.0.0.1", "localhost"),
                "/own-name": f"http://localhost:{port}/home",
                "/mapped": f"http://[::ffff:127.0.0.1]:{inner.url().port}/",
                "/metadata": "http://169.254.169.254/latest/meta-data/",
                "/own": f"{outer.base}/home",
                "/relative": "/home",
            }
            for target in ("/port", "/name", "/own-name", "/mapped", "/metadata"):
                with pytest.raises(AddressRefused) as raised:
                    await get(client, outer.base + target)
                assert raised.value.fault is Fault.SERVER
            for target in ("/own", "/relative"):
                assert await get(client, outer.base + target) == b"home"
        assert inner.asked == []
    await client.aclose()


async def test_s32_a_redirect_back_is_not_the_callers_word_any_more() -> None:
    """A public server that may send us to ours would choose what it is asked."""
    client = Client(QUICK, trust=Trust(addresses=AddressPolicy(allow=("127.0.0.2",))))
    other: ScriptServer

    async with serve(lambda asked: [redirect(f"http://127.0.0.2:{other.url().port}/")]) as own:
        async with serve(lambda asked: [redirect(f"{own.base}/admin")]) as other:
            listener = trio.socket.socket()
            await listener.bind(("127.0.0.2", other.url().port))
            listener.listen(1)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_forward, listener, other.url().port)
                with pytest.raises(AddressRefused, match="/admin"):
                    await get(client, own.base)
                nursery.cancel_scope.cancel()
        assert [asked.target for asked in own.asked] == ["/"]
    await client.aclose()


async def _forward(listener: trio.socket.SocketType, port: int) -> None:
    sock, _ = await listener.accept()
    with listener:
        async with trio.SocketStream(sock) as near, await trio.open_tcp_stream("127.0.0.1", port) as far:
            await far.send_all(await near.receive_some(4096))
            await near.send_all(await far.receive_some(4096))
            await trio.sleep_forever()


async def test_m19_ports_of_other_protocols_are_for_the_caller_only() -> None:
    client = Client(QUICK, trust=HERE)
    assert {22, 25, 6379} <= FOREIGN_PORTS
    assert not {80, 443, 8080, 8443, 3000, 5000, 8000} & FOREIGN_PORTS
    async with serve(lambda _: [redirect("http://media.example:25/x")]) as server:
        with pytest.raises(AddressRefused, match="port 25") as raised:
            await get(client, server.base)
        assert raised.value.fault is Fault.SERVER
        with pytest.raises(AddressRefused, match="port 6379"):
            await get(client, "http://media.example:6379/", named=False)
        with pytest.raises(TransferError, match=r"refused|no connection"):
            await get(client, "http://127.0.0.1:25/")
    await client.aclose()


HEADERS = (("Authorization", "Bearer s"), ("X-Api-Key", "k"), ("x-api-key", "k2"), ("AUTHORIZATION", "s2"))


async def test_s33_fields_go_to_the_origins_they_are_bound_to() -> None:
    """By a request's own word also to others; what leaves those origins comes back without them."""
    client = Client(QUICK, trust=HERE)
    stranger: ScriptServer

    def home(asked: Asked) -> list[Step]:
        places = {"/start": f"{friend.base}/x", "/out": f"{stranger.base}/back", "/end": ""}
        return [redirect(places[asked.target])] if places[asked.target] else [answer(b"end")]

    async with (
        serve(lambda _: [answer(b"friend")]) as friend,
        serve(home) as own,
        serve(lambda _: [redirect(f"{own.base}/end")]) as stranger,
    ):
        bound = [own.url().origin, friend.url().origin]
        assert await get(client, f"{own.base}/start", HEADERS, home=bound) == b"friend"
        assert [value for name, value in friend.asked[0].fields if name == "x-api-key"] == ["k", "k2"]
        assert await get(client, f"{own.base}/out", HEADERS, home=bound) == b"end"
        assert await get(client, f"{friend.base}/x", HEADERS, home=[own.url().origin]) == b"friend"
        for asked in (stranger.asked[0], own.asked[-1], friend.asked[-1]):
            assert {name for name, _ in asked.fields} == {"host", "user-agent", "accept", "accept-encoding"}
    await client.aclose()


async def test_m24_no_referer_and_s34_no_cookie_ever() -> None:
    client = Client(QUICK)
    cookies = ("Set-Cookie: a=s3cret; Domain=.com", "Set-Cookie: b=\x07; Path=/", "Set-Cookie: c=1; Domain=127.0.0.1.")

    def script(asked: Asked) -> list[Step]:
        if asked.target == "/?token=s3cret":
            return [answer(b"", "Location: /next", *cookies[::2], status="302 Found")]
        return [answer(b"x", *cookies[::2])]

    async with serve(script) as server:
        for _ in range(2):
            assert await get(client, f"{server.base}/?token=s3cret") == b"x"
        assert len(server.asked) == 4
        for asked in server.asked:
            assert {name for name, _ in asked.fields} == {"host", "user-agent", "accept", "accept-encoding"}
            assert (b"s3cret" in asked.raw) == (asked.target != "/next")
    await client.aclose()


def test_origins_are_parsed_like_urls() -> None:
    assert parse_origin("https://Host.example") == Origin("https", "host.example", 443)
    assert parse_origin("http://[::1]:81/") == Origin("http", "::1", 81)
    for text in ("host", "https://host/x", "https://host?q", "https://host/#f", "https://u:p@host", "ftp://h", ""):
        with pytest.raises(InvalidRequest) as raised:
            parse_origin(text)
        assert "u:p" not in str(raised.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"insecure": ("http://host",)}, {"insecure": "https://host"}, {"insecure": ("https://host/x",)},
        {"proxy": "https://proxy:1"}, {"proxy": "socks5://proxy:1"}, {"proxy": "http://user:s3cret@proxy"},
        {"proxy": "http://proxy/path"}, {"addresses": ("10.0.0.0/8",)}, {"certificates": ("cert.pem",)},
    ],
)  # fmt: skip
def test_a_trust_that_cannot_work_is_refused_when_it_is_made(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Trust(**wrong)  # type: ignore[arg-type]
    assert "s3cret" not in str(raised.value)


def test_a_certificate_needs_someone_to_see_it() -> None:
    for origins in ((), ("http://host",), "https://host"):
        with pytest.raises(InvalidRequest):
            ClientCertificate(certfile="x", origins=origins)  # type: ignore[arg-type]


NETRC = """
machine localhost login anna password s3cret
machine 127.0.0.1 login berta password s3cret2
default login everyone password s3cret3
"""


@pytest.mark.parametrize(
    ("content", "words"), [(None, "cannot be read"), ("machine a login b passwort s3cret\n", "line")]
)
def test_a_netrc_file_that_cannot_be_used_is_told_without_its_content(
    tmp_path: Path, content: str | None, words: str
) -> None:
    path = tmp_path / "netrc"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InvalidRequest, match=words) as raised:
        Client(QUICK, trust=Trust(netrc=path))
    assert "s3cret" not in str(raised.value)


async def test_m26_netrc_is_not_for_plain_http_and_never_by_default(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".netrc").write_text(NETRC)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    for client in (Client(QUICK), Client(QUICK, trust=Trust(netrc="~/.netrc"))):
        async with serve(lambda _: [answer(b"x")]) as server:
            assert await get(client, server.base) == b"x"
            assert server.asked[0].get("authorization") is None
        await client.aclose()
