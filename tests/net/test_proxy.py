"""Proxies: which one is used, how it is spoken to, and what it may not do (N18, S41)."""

from __future__ import annotations

import pytest
import trio
import trustme

from engine.config import Config
from engine.errors import (
    AddressRefused,
    ConnectRefused,
    Fault,
    InvalidRequest,
    ProxyAuth,
    ProxyError,
    TlsError,
)
from engine.net.addresses import AddressPolicy
from engine.net.client import Client
from engine.net.proxy import Exemptions, Proxies, basic
from engine.net.trust import Trust
from engine.net.url import Origin, parse_url
from tests.net.script_server import answer, serve
from tests.support.proxy import Behaviour, run_proxy
from tests.support.tls import server_side

QUICK = Config(connect_timeout_s=2.0, first_byte_timeout_s=0.5, idle_timeout_s=2.0, tls_timeout_s=2.0)
LOGIN = ("anna", "s3cret:ä")
FAR = "far.example"  # has no address but at the proxy


async def get(client: Client, url: str, fields: tuple[tuple[str, str], ...] = ()) -> bytes:
    async with client.get(parse_url(url), fields=fields) as exchange:
        view = memoryview(bytearray(100))
        return bytes(view[: await exchange.fill(view)])


# What a proxy sees and does


async def test_plain_http_goes_to_the_proxy_in_absolute_form() -> None:
    async with serve(lambda _: [answer(b"x")]) as server, run_proxy() as proxy:
        client = Client(QUICK, trust=Trust(proxy=proxy.url, proxy_auth=LOGIN))
        assert await get(client, f"{server.base}/a?b=c", (("X-Own", "1"),)) == b"x"
        assert proxy.request_lines == [f"GET {server.base}/a?b=c HTTP/1.1"]
        assert f"Proxy-Authorization: {basic(LOGIN)}".encode() in proxy.heads[0]
        assert f"Host: {server.url().host_header}".encode() in proxy.heads[0]
        [asked] = server.asked
        assert (asked.target, asked.get("x-own"), asked.get("proxy-authorization")) == ("/a?b=c", "1", None)
        await client.aclose()


async def test_https_goes_through_a_tunnel_that_hides_everything(authority: trustme.CA, cafile: str) -> None:
    """The proxy resolves the name; its credentials go to it alone, and the caller's fields to the origin alone."""
    tls = server_side(authority, FAR)
    async with serve(lambda _: [answer(b"x")], tls=tls) as server:
        port = server.url().port
        async with run_proxy(Behaviour(authorization=basic(LOGIN), elsewhere=("127.0.0.1", port))) as proxy:
            client = Client(QUICK, trust=Trust(cafile=cafile, proxy=proxy.url, proxy_auth=LOGIN))
            for _ in range(2):
                assert await get(client, f"https://{FAR}:{port}/a", (("Authorization", "Bearer mine"),)) == b"x"
            assert proxy.request_lines == [f"CONNECT {FAR}:{port} HTTP/1.1"], "the tunnel is used again"
            assert b"Bearer" not in proxy.heads[0]
            assert b"User-Agent" not in proxy.heads[0]
            for asked in server.asked:
                assert (asked.get("authorization"), asked.get("proxy-authorization")) == ("Bearer mine", None)
                assert asked.get("host") == f"{FAR}:{port}"
            await client.aclose()


async def test_a_tunnel_to_an_address(authority: trustme.CA, cafile: str) -> None:
    tls = server_side(authority, "::1")
    async with (
        serve(lambda _: [answer(b"x")], tls=tls) as server,
        run_proxy(Behaviour(elsewhere=("127.0.0.1", server.url().port))) as proxy,
    ):
        client = Client(QUICK, trust=Trust(cafile=cafile, proxy=proxy.url))
        assert await get(client, "https://[::1]/") == b"x"
        assert proxy.request_lines == ["CONNECT [::1]:443 HTTP/1.1"]
        assert b"\r\nHost: [::1]:443\r\n" in proxy.heads[0]
        assert server.asked[0].get("host") == "[::1]"
        await client.aclose()


async def test_n16_the_certificate_is_the_origins_also_behind_a_proxy(authority: trustme.CA, cafile: str) -> None:
    tls = server_side(authority, "other.example")
    async with (
        serve(lambda _: [answer(b"x")], tls=tls) as server,
        run_proxy(Behaviour(elsewhere=("127.0.0.1", server.url().port))) as proxy,
    ):
        client = Client(QUICK, trust=Trust(cafile=cafile, proxy=proxy.url))
        with pytest.raises(TlsError, match="another host name"):
            await get(client, f"https://{FAR}/")
        await client.aclose()
    assert server.asked == []


@pytest.mark.parametrize("login", [None, ("anna", "wrong")])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_n18_407(scheme: str, login: tuple[str, str] | None) -> None:
    async with run_proxy(Behaviour(authorization=basic(LOGIN))) as proxy:
        client = Client(QUICK, trust=Trust(proxy=proxy.url, proxy_auth=login))
        with pytest.raises(ProxyAuth, match="credentials") as raised:
            await get(client, f"{scheme}://{FAR}/x?token=s3cret")
        error = raised.value
        assert (error.code, error.status, error.fault, error.retryable) == ("proxy_auth", 407, Fault.CALLER, False)
        assert "wrong" not in str(error)
        assert "s3cret" not in str(error)
        assert "active=0 connecting=0 idle=0" in repr(client.pool)
        await client.aclose()


async def test_a_407_of_an_origin_is_no_proxys() -> None:
    client = Client(QUICK)
    async with serve(lambda _: [answer(status="407 No")]) as server, client.get(server.url()) as exchange:
        assert exchange.head.status == 407
    await client.aclose()


DEAF = b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n"
REFUSALS = {
    "forbidden": (Behaviour(answer=DEAF % 403), "status 403", 403, False),
    "not allowed": (Behaviour(answer=DEAF % 405), "status 405", 405, False),
    "redirect": (
        Behaviour(answer=b"HTTP/1.1 302 Go\r\nLocation: http://x/\r\nContent-Length: 0\r\n\r\n"),
        "302",
        302,
        False,
    ),
    "cannot connect": (Behaviour(answer=DEAF % 502), "status 502", 502, True),
    "busy": (Behaviour(answer=DEAF % 503), "status 503", 503, True),
    "surplus bytes": (Behaviour(elsewhere=("127.0.0.1", 0), surplus=b"\x16\x03\x01"), "in the place", None, True),
    "surplus in the same piece": (
        Behaviour(answer=b"HTTP/1.1 200 OK\r\n\r\nHTTP/1.1 200 OK\r\n\r\n"),
        "place",
        None,
        True,
    ),
    "a body": (Behaviour(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"), "in the place", None, True),
    "no HTTP": (Behaviour(answer=b"SSH-2.0-x\r\n\r\n"), "no tunnel", None, True),
    "bare LF": (Behaviour(answer=b"HTTP/1.1 200 OK\n\n"), "no tunnel", None, True),
    "a head without end": (Behaviour(answer=b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000), "no tunnel", None, True),
    "silence": (Behaviour(silent=True), "did not answer", None, True),
}


@pytest.mark.parametrize("name", REFUSALS)
async def test_n18_a_proxy_that_makes_no_tunnel(name: str) -> None:
    behaviour, words, status, retryable = REFUSALS[name]
    async with serve(lambda _: [answer(b"x")]) as server:
        if behaviour.elsewhere:
            behaviour = Behaviour(elsewhere=("127.0.0.1", server.url().port), surplus=behaviour.surplus)
        async with run_proxy(behaviour) as proxy:
            client = Client(QUICK, trust=Trust(proxy=proxy.url))
            with pytest.raises(ProxyError, match=words) as raised:
                await get(client, f"https://{FAR}/")
            assert type(raised.value) is ProxyError
            assert (raised.value.code, raised.value.status, raised.value.retryable) == (
                "proxy_error",
                status,
                retryable,
            )
            assert repr(client.pool) == "<Pool active=0 connecting=0 idle=0 opened=0>"
            await client.aclose()


async def test_a_proxy_that_closes_or_is_not_there() -> None:
    async def closes(stream: trio.SocketStream) -> None:
        await stream.receive_some(1000)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, closes, listeners)
        port = listeners[0].socket.getsockname()[1]
        client = Client(QUICK, trust=Trust(proxy=f"127.0.0.1:{port}"))
        with pytest.raises(ProxyError, match=r"no tunnel: .* closed"):
            await get(client, f"https://{FAR}/")
        nursery.cancel_scope.cancel()
    for scheme in ("http", "https"):
        with pytest.raises(ProxyError, match=rf"{scheme}://{FAR}/: the proxy .* cannot be reached: .*refused"):
            await get(client, f"{scheme}://{FAR}/")
    await client.aclose()


async def test_n2_the_proxy_is_the_callers_word_but_addresses_behind_it_are_not() -> None:
    """A proxy resolves names, so these cannot be judged here; an address in a URL can."""
    moved = answer(b"", "Location: http://169.254.169.254/", status="302 Found")
    async with serve(lambda _: [moved]) as server, run_proxy() as proxy:
        client = Client(QUICK, trust=Trust(proxy=proxy.url, addresses=AddressPolicy()))
        for url in (server.base, "http://169.254.169.254/", "https://[fe80::1]/"):
            with pytest.raises(AddressRefused):
                await get(client, url)
        public = Client(QUICK, trust=Trust(proxy=proxy.url, addresses=AddressPolicy(named=False)))
        for url in (server.base, "http://localhost:1/", "https://localhost/"):
            with pytest.raises(AddressRefused, match="loopback"):
                await get(public, url)
        assert len(proxy.heads) == 1
        await client.aclose()
        await public.aclose()


# Which proxy


async def test_s41_what_is_exempt_is_asked_directly_and_shares_nothing() -> None:
    async with serve(lambda _: [answer(b"x")]) as server, run_proxy() as proxy:
        client = Client(QUICK, trust=Trust(proxy=proxy.url, no_proxy=("127.0.0.2", f"127.0.0.1:{server.url().port}")))
        assert await get(client, server.base) == b"x"
        assert (proxy.connections, server.connections) == (0, 1)
        dialer = client.pool._dialer
        other = Origin("http", "127.0.0.1", 1)
        assert dialer.route(server.url().origin).proxy is None
        assert dialer.route(other) != dialer.route(other)._replace(proxy=None)
        await client.aclose()


MATCHES = [
    ("*", "any.example", 80, True),
    ("", "any.example", 80, False),
    (" , ,", "any.example", 80, False),
    ("example.com", "example.com", 443, True),
    ("example.com", "a.b.example.com", 443, True),
    (".example.com", "a.example.com", 443, True),
    (".example.com", "example.com", 443, True),
    ("*.example.com", "a.example.com", 443, True),
    ("EXAMPLE.com.", "www.example.com", 443, True),
    ("example.com", "badexample.com", 443, False),
    ("example.com", "example.com.evil", 443, False),
    ("a.example.com", "example.com", 443, False),
    ("example.com:8080", "example.com", 8080, True),
    ("example.com:8080", "a.example.com", 8080, True),
    ("example.com:8080", "example.com", 80, False),
    ("other, example.com", "example.com", 80, True),
    ("localhost", "localhost", 80, True),
    ("localhost", "127.0.0.1", 80, False),
    ("127.0.0.1", "127.0.0.1", 80, True),
    ("127.0.0.1:81", "127.0.0.1", 80, False),
    ("10.0.0.0/8", "10.255.0.1", 80, True),
    ("10.1.2.3/8", "10.255.0.1", 80, True),
    ("10.0.0.0/8:81", "10.255.0.1", 81, True),
    ("10.0.0.0/8", "11.0.0.1", 80, False),
    ("10.0.0.0/8", "10.example", 80, False),
    ("::1", "::1", 80, True),
    ("[::1]", "::1", 80, True),
    ("[::1]:81", "::1", 81, True),
    ("[::1]:81", "::1", 80, False),
    ("fd00::/8", "fd12::1", 80, True),
    ("0.0.0.1", "example.com", 80, False),
]


@pytest.mark.parametrize(("rules", "host", "port", "exempt"), MATCHES)
def test_no_proxy(rules: str, host: str, port: int, exempt: bool) -> None:
    assert Exemptions(rules).match(host, port) is exempt
    assert Exemptions(rules.split(",")).match(host, port) is exempt


@pytest.mark.parametrize("rules", ["example.com:0", "example.com:x", "example.com:99999", "10.0.0.0/33", "a/b", "::z"])
def test_no_proxy_rules_that_mean_nothing(rules: str) -> None:
    with pytest.raises(InvalidRequest):
        Exemptions(rules)


HTTP, HTTPS = Origin("http", FAR, 80), Origin("https", FAR, 443)
ENVIRONMENTS = [
    ({}, None, None),
    ({"http_proxy": "http://p:1"}, "p", None),
    ({"HTTP_PROXY": "http://p:1"}, None, None),  # set by a request's field in CGI
    ({"https_proxy": "http://p:1"}, None, "p"),
    ({"HTTPS_PROXY": "p:1/"}, None, "p"),
    ({"https_proxy": "http://p:1", "HTTPS_PROXY": "http://q:1"}, None, "p"),
    ({"all_proxy": "http://p:1"}, "p", "p"),
    ({"ALL_PROXY": "http://p:1", "https_proxy": " http://q:1 "}, "p", "q"),
    ({"all_proxy": "http://p:1", "no_proxy": ".example"}, None, None),
    ({"all_proxy": "http://p:1", "NO_PROXY": "other"}, "p", "p"),
    ({"http_proxy": "", "all_proxy": "http://p:1"}, "p", "p"),
]


@pytest.mark.parametrize(("environment", "http", "https"), ENVIRONMENTS)
def test_m26_the_environment_counts_only_when_asked(
    environment: dict[str, str], http: str | None, https: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    proxies = Proxies.of(Trust(environment=True), environment)
    assert [proxy and proxy.origin.host for proxy in map(proxies.for_, (HTTP, HTTPS))] == [http, https]
    assert not Proxies.of(Trust(), environment)
    route = Client(QUICK).pool._dialer.route(HTTP)
    assert route.proxy is None


def test_what_is_given_counts_before_the_environment() -> None:
    environment = {"all_proxy": "http://p:1", "no_proxy": "*"}
    given = Proxies.of(Trust(proxy="http://q:2", environment=True, no_proxy="other"), environment)
    found = given.for_(HTTP)
    assert found is not None
    assert found.origin == Origin("http", "q", 2)
    assert Proxies.of(Trust(proxy="q", environment=True), environment).for_(HTTPS) is None


def test_credentials_in_the_environment_are_taken_out_of_the_url() -> None:
    environment = {"https_proxy": "http://us%40er:s3cr%3Aet@p:1"}
    proxy = Proxies.of(Trust(environment=True), environment).for_(HTTPS)
    assert proxy is not None
    assert proxy.fields == (("Proxy-Authorization", basic(("us@er", "s3cr:et"))),)
    assert "s3cr" not in repr(proxy) + repr(Proxies.of(Trust(environment=True), environment))
    with pytest.raises(InvalidRequest) as raised:
        Proxies.of(Trust(environment=True), {"https_proxy": "socks5://user:s3cret@p:1"})
    assert "s3cret" not in str(raised.value)


@pytest.mark.parametrize("auth", [("a:b", "s3cret"), ("a", "s3cret\r\nX: y"), ("a",), ("a", 5), ("a\0", "s3cret")])
def test_credentials_that_cannot_be_sent(auth: tuple[str, ...]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        Client(QUICK, trust=Trust(proxy="p", proxy_auth=auth))  # type: ignore[arg-type]
    assert "s3cret" not in str(raised.value)


def test_credentials_without_a_proxy_are_a_mistake() -> None:
    with pytest.raises(InvalidRequest, match="need a proxy"):
        Client(QUICK, trust=Trust(proxy_auth=LOGIN))
    assert "s3cret" not in repr(Trust(proxy="p", proxy_auth=LOGIN))


async def test_a_refused_connection_behind_no_proxy_is_still_the_origins() -> None:
    async with run_proxy() as proxy:
        client = Client(QUICK, trust=Trust(proxy=proxy.url, no_proxy="127.0.0.1"))
        with pytest.raises(ConnectRefused) as raised:
            await get(client, "http://127.0.0.1:1/")
        assert not isinstance(raised.value, ProxyError)
        await client.aclose()
