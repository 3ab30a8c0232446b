"""Trust through the whole engine: what is refused, what goes where, and that no secret comes out anywhere."""

from __future__ import annotations

import base64
import gc
import logging
import ssl
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import trio
import trustme

from engine import (
    AddressPolicy,
    ClientCertificate,
    DownloadFailed,
    DownloadRequest,
    Engine,
    InvalidRequest,
    Trust,
    open_engine,
)
from engine.errors import Fault
from engine.net.proxy import basic
from tests.support.library import CHUNK, SMALL, payload_of
from tests.support.origin import Asked, Reply, Script, serve
from tests.support.proxy import Behaviour, run_proxy
from tests.support.run import assert_complete, assert_failed, run
from tests.support.tls import server_side

PAYLOAD = payload_of(5 * CHUNK + 77)
HERE = AddressPolicy(allow=("127.0.0.0/8",))
FAR = "far.example"  # has an address at the proxy only


def redirecting(target: str) -> Script:
    return lambda asked: Reply(status=302, fields=(("Location", target),))


# N2, S32


async def test_s32_a_redirect_inside_ends_the_entry_with_nothing_sent(library: Path) -> None:
    async with serve(PAYLOAD) as inside, serve(b"", redirecting(inside.url())) as outside:
        outcome = await run(library, DownloadRequest(url=outside.url()))
        assert_failed(outcome, "address_refused")
        assert outcome.entry.last_error is not None
        assert outcome.entry.last_error.fault == Fault.SERVER.value
        assert "--allow-address" in outcome.entry.last_error.advice
        assert (len(outside.asked), inside.asked, outcome.entry.attempt_count) == (1, [], 1)
        again = await run(library, DownloadRequest(url=outside.url()), trust=Trust(addresses=HERE))
        assert_complete(again, PAYLOAD)


async def test_n2_a_public_only_engine_refuses_what_is_named(library: Path) -> None:
    async with serve(PAYLOAD) as origin:
        public = Trust(addresses=AddressPolicy(named=False))
        assert_failed(await run(library, DownloadRequest(url=origin.url()), trust=public), "address_refused")
        assert origin.connections == 0
        assert_complete(await run(library, DownloadRequest(url=origin.url())), PAYLOAD)


async def test_n2_a_url_out_of_a_document_is_nobodys_word(library: Path) -> None:
    """Nor do the request's headers go to whoever the document names."""
    async with serve(PAYLOAD) as origin:
        request = DownloadRequest(url=origin.url(), named=False, headers=(("X-Token", "t"),))
        assert_failed(await run(library, request), "address_refused")
        assert origin.connections == 0
        assert_complete(await run(library, request, trust=Trust(addresses=HERE)), PAYLOAD)
        assert all("x-token" not in asked.fields for asked in origin.asked)


# S33


async def test_s33_header_origins_get_the_headers_too(library: Path) -> None:
    """Those and no others; it is on record, and the newest request counts."""
    trust = Trust(addresses=HERE)
    async with serve(PAYLOAD) as friend, serve(b"", redirecting(friend.url())) as own:
        headers = (("X-Token", "t1"), ("Cookie", "c=1"))
        request = DownloadRequest(url=own.url(), headers=headers, header_origins=[friend.base])  # type: ignore[arg-type]  # any list
        outcome = await run(library, request, trust=trust)
        assert_complete(outcome, PAYLOAD)
        assert outcome.entry.header_origins == (friend.base,)
        assert friend.asked
        for asked in (*own.asked, *friend.asked):
            assert (asked.fields["x-token"], asked.fields["cookie"]) == ("t1", "c=1")
        friend.forget()
        other = DownloadRequest(url=own.url("other.bin"), headers=headers, header_origins=("http://127.0.0.1:1",))
        assert_complete(await run(library, other, trust=trust), PAYLOAD)
        assert all(not {"x-token", "cookie"} & asked.fields.keys() for asked in friend.asked)


@pytest.mark.parametrize("origins", ["http://h", ("h",), ("ftp://h",), ("http://h/x",), (5,), ("http://h",) * 17])
async def test_header_origins_that_are_none_are_refused(library: Path, origins: object) -> None:
    async with open_engine(library, config=SMALL) as engine:
        with pytest.raises(InvalidRequest, match=r"origin|URL"):
            await engine.offline(DownloadRequest(url="http://h/x", header_origins=origins))  # type: ignore[arg-type]


# N16, N18, S41


async def test_n18_a_download_through_a_proxy_with_a_certificate_of_its_own(
    library: Path, authority: trustme.CA, cafile: str, tmp_path: Path
) -> None:
    leaf = authority.issue_cert("me@example.org")
    leaf.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "me.pem"))
    tls = server_side(authority, FAR)
    authority.configure_trust(tls)
    tls.verify_mode = ssl.CERT_REQUIRED
    async with serve(PAYLOAD, tls=tls) as origin:
        port = int(origin.base.rpartition(":")[2])
        async with run_proxy(Behaviour(authorization=basic(("u", "p")), elsewhere=("127.0.0.1", port))) as proxy:
            mine = ClientCertificate(certfile=str(tmp_path / "me.pem"), origins=(f"https://{FAR}",))
            trust = Trust(cafile=cafile, proxy=proxy.url, proxy_auth=("u", "p"), certificates=(mine,))
            assert_complete(await run(library, DownloadRequest(url=f"https://{FAR}/a.bin"), trust=trust), PAYLOAD)
            assert set(proxy.request_lines) == {f"CONNECT {FAR}:443 HTTP/1.1"}
            assert all("proxy-authorization" not in asked.fields for asked in origin.asked)


@pytest.mark.parametrize(
    ("behaviour", "code", "status"),
    [
        (Behaviour(authorization="Basic x"), "proxy_auth", 407),
        (Behaviour(answer=b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n"), "proxy_error", 403),
    ],
)
async def test_n18_what_a_proxy_refuses_ends_the_entry(
    library: Path, behaviour: Behaviour, code: str, status: int
) -> None:
    async with run_proxy(behaviour) as proxy:
        outcome = await run(library, DownloadRequest(url=f"https://{FAR}/x"), trust=Trust(proxy=proxy.url))
        assert_failed(outcome, code, status)
        assert (outcome.entry.attempt_count, proxy.connections) == (1, 1)


async def test_n16_insecure_is_of_one_origin(library: Path, authority: trustme.CA) -> None:
    tls = server_side(authority, "other.example")
    async with serve(PAYLOAD, tls=tls) as origin, serve(PAYLOAD, tls=tls) as other:
        trust = Trust(insecure=(origin.base,))
        assert_complete(await run(library, DownloadRequest(url=origin.url()), trust=trust), PAYLOAD)
        assert_failed(await run(library, DownloadRequest(url=other.url("other.bin")), trust=trust), "tls")
        assert_failed(await run(library, DownloadRequest(url=origin.url("again.bin"))), "tls")


@pytest.mark.parametrize("trust", [{"proxy": "p", "proxy_auth": ("a:b", "c")}, {"netrc": "/nonexistent"}])
async def test_a_trust_that_cannot_be_used_is_told_at_the_start(library: Path, trust: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest):
        async with open_engine(library, trust=Trust(**trust)):  # type: ignore[arg-type]
            pass
    assert not library.exists()


# M24

SECRETS = ("q3ry", "h3ader", "auth0rized", "c00kie", "pr0xy", "n3trc", "l0cation", "cust0m")
PROXY_LOGIN, NETRC_LOGIN = ("anna", "pr0xy"), ("berta", "n3trc")


def hidden(*logins: tuple[str, str]) -> set[str]:
    """The secrets in every form in which they go over the wire."""
    forms = {basic(login).removeprefix("Basic ") for login in logins}
    return {*SECRETS, *forms, *(base64.b64encode(text.encode()).decode().rstrip("=") for text in SECRETS)}


FORMS = hidden(PROXY_LOGIN, NETRC_LOGIN)


def told_by_objects() -> Iterator[str]:
    """The ``repr`` of every object of the engine that is alive, and was made since ``only_new_objects`` began."""
    for found in gc.get_objects():
        module = type(found).__module__
        if isinstance(module, str) and module.startswith("engine."):
            yield repr(found)


@pytest.fixture
def only_new_objects() -> Iterator[None]:
    """What other tests left behind is not looked at: it is not of this run, and there may be very much of it."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def telling(texts: Iterable[str]) -> dict[str, set[str]]:
    """The secrets that come out, by the beginning of what tells them."""
    return {text[:300]: found for text in texts if (found := {form for form in FORMS if form in text})}


async def collect(engine: Engine, told: list[str], task_status: trio.TaskStatus[None]) -> None:
    with engine.events() as events:
        task_status.started()
        told.extend([repr(event) async for event in events])


@pytest.mark.usefixtures("only_new_objects")
async def test_m24_no_secret_comes_out_anywhere(
    library: Path, authority: trustme.CA, cafile: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A whole run with secrets in the query, in headers, behind a redirect, for the proxy and in a netrc file, of
    downloads that succeed and that fail in many ways. Only the record keeps the caller's own URL, to ask it again."""
    caplog.set_level(logging.DEBUG)
    (tmp_path / "netrc").write_text(f"machine {FAR} login {NETRC_LOGIN[0]} password {NETRC_LOGIN[1]}\n")
    (tmp_path / "netrc").chmod(0o600)
    told: list[str] = []

    def script(asked: Asked) -> Reply:
        told.extend(told_by_objects())
        name = asked.target.partition("?")[0]
        if name == "/moved":
            cookie = ("Set-Cookie", "session=c00kie")
            return Reply(status=302, fields=(("Location", f"https://{FAR}/film.bin?Signature=l0cation"), cookie))
        odd = {
            "/forbidden": Reply(status=403),
            "/inside": Reply(status=302, fields=(("Location", "https://10.0.0.1/x?Signature=l0cation"),)),
            "/bad": Reply(status=302, fields=(("Location", "https://u:l0cation@x/?Signature=l0cation"),)),
            "/loop": Reply(status=302, fields=(("Location", "/loop?Signature=l0cation"),)),
            "/broken": Reply(fields=(("Transfer-Encoding", "l0cation"),)),
            "/short": Reply(send=100),
        }
        return odd.get(name, Reply())

    tls = server_side(authority, FAR)
    names = ("moved", "plain", "forbidden", "inside", "bad", "loop", "broken")
    async with serve(PAYLOAD, script, tls=tls) as origin:
        port = int(origin.base.rpartition(":")[2])
        behaviour = Behaviour(authorization=basic(PROXY_LOGIN), elsewhere=("127.0.0.1", port))
        async with run_proxy(behaviour) as proxy, trio.open_nursery() as nursery:
            trust = Trust(cafile=cafile, proxy=proxy.url, proxy_auth=PROXY_LOGIN, netrc=tmp_path / "netrc")
            async with open_engine(library, config=SMALL, trust=trust) as engine:
                await nursery.start(collect, engine, told)
                for name in names:
                    request = DownloadRequest(
                        id=name,
                        url=f"https://{FAR}/{name}?X-Amz-Signature=q3ry",
                        headers={"Authorization": "Bearer auth0rized", "Cookie": "c00kie"} if name == "plain" else {},  # type: ignore[arg-type]
                        secret_headers={"X-Mine": "h3ader"},  # type: ignore[arg-type]
                    )
                    told.append(repr(request))
                    download = await engine.offline(request)
                    try:
                        await download.wait()
                    except DownloadFailed as failed:
                        told += [str(failed), repr(failed)]
                    entry = await engine.get(name)
                    told += [repr(entry), str(entry.last_error), repr(entry.attempts), repr(await engine.parts(name))]
                    told.append(repr(await engine.offline_entry(name)))
                wrong = Trust(cafile=cafile, proxy=proxy.url, proxy_auth=("anna", "n3trc"))
                told.append(repr(wrong))
                told.extend(told_by_objects())
                done = {name for name in names if (await engine.get(name)).state.value == "completed"}
            nursery.cancel_scope.cancel()
    assert done == {"moved", "plain"}
    assert [asked.fields.get("authorization") for asked in origin.asked if asked.target.startswith("/forb")] == [
        basic(NETRC_LOGIN)
    ]
    assert all("referer" not in asked.fields for asked in origin.asked)
    assert len(told) > 500
    assert sum(text.startswith("StateChanged") for text in told) > len(names)
    assert telling(told) == {}
    assert telling(caplog.text.splitlines()) == {}
    for path in library.rglob("*"):
        if path.is_file():
            data = path.read_bytes()
            kept = {form for form in FORMS if form.encode() in data} - {"q3ry"}
            assert not kept, f"{path.name} holds {kept}"
