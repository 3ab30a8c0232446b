"""The options about trust: each has its effect with real servers, and a mistake is told before anything is done."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from engine.cli.arguments import parse
from engine.cli.trust_options import trust_options_given
from engine.net.proxy import basic
from tests.cli.support import SMALL, Said, WatchedOrigin, downloading
from tests.support.proxy import Behaviour, TestProxy, proxy_in_thread

Cli = Callable[..., Said]
LOGIN = ("anna", "s3cret")


class Mover(WatchedOrigin):
    """Sends everybody on to ``target``."""

    target = ""

    def answer(self, connection, head):  # type: ignore[no-untyped-def]
        self.heads.append(head)
        connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {self.target}\r\nContent-Length: 0\r\n\r\n".encode())


@pytest.fixture
def mover(origin: WatchedOrigin) -> Iterator[Mover]:
    with Mover({}) as running:
        running.target = origin.url("/small.bin")
        yield running


@pytest.fixture
def proxy() -> Iterator[TestProxy]:
    with proxy_in_thread(Behaviour(authorization=basic(LOGIN))) as running:
        yield running


@pytest.fixture
def secure(authority: trustme.CA, served: dict[str, str], tmp_path: Path) -> Iterator[WatchedOrigin]:
    """An https origin; its authority is in ``ca.pem``."""
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    authority.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    with WatchedOrigin(served, tls=context) as running:
        yield running


def https(origin: WatchedOrigin, path: str = "/small.bin") -> str:
    return origin.url(path).replace("http:", "https:")


def error_of(said: Said) -> str:
    return str(said.object["error"]["code"])


def test_allow_address(cli: Cli, origin: WatchedOrigin, mover: Mover) -> None:
    refused = cli("get", "--json", mover.url("/x"))
    assert (refused.code, error_of(refused), origin.heads) == (1, "address_refused", [])
    assert "--allow-address" in refused.object["error"]["advice"]
    allowed = cli("get", "--json", "--allow-address", "10.0.0.0/8", "--allow-address", "127.0.0.1", mover.url("/x"))
    assert (allowed.code, allowed.object["bytes_total"]) == (0, len(SMALL))


def test_public_only(cli: Cli, origin: WatchedOrigin) -> None:
    assert error_of(cli("get", "--json", "--public-only", origin.url("/small.bin"))) == "address_refused"
    assert origin.connections == 0


def test_header_origin(cli: Cli, origin: WatchedOrigin, mover: Mover) -> None:
    there = origin.url("/").rstrip("/")
    options = ("--allow-address", "127.0.0.1", "--header", "X-Token: t", "--secret-header", "X-Key: k")
    said = cli("get", "--json", "--id", "a", *options, "--header-origin", there, mover.url("/x"))
    assert said.code == 0
    assert all("X-Token: t" in head and "X-Key: k" in head for head in (*mover.heads, *origin.heads))
    assert cli("show", "--json", "a").object["header_origins"] == [there]
    origin.heads.clear()
    assert cli("get", "--id", "b", *options, mover.url("/y")).code == 0
    assert not any("X-Token" in head or "X-Key" in head for head in origin.heads)


def test_proxy(cli: Cli, origin: WatchedOrigin, proxy: TestProxy, tmp_path: Path) -> None:
    (tmp_path / "login").write_text("anna:s3cret\n")
    url = origin.url("/small.bin")
    without = cli("get", "--json", "--proxy", proxy.url, url)
    assert (error_of(without), origin.connections) == ("proxy_auth", 0)
    assert cli("get", "--proxy", proxy.url, "--proxy-auth", f"@{tmp_path / 'login'}", url).code == 0
    assert f"GET {url} HTTP/1.1" in proxy.request_lines
    assert all("Proxy-Authorization" not in head for head in origin.heads)
    asked = len(proxy.heads)
    elsewhere = origin.url("/large.bin")
    assert cli("get", "--proxy", proxy.url, "--no-proxy", "example.com,127.0.0.0/8", elsewhere).code == 0
    assert len(proxy.heads) == asked


def test_https_through_a_proxy(cli: Cli, secure: WatchedOrigin, proxy: TestProxy, tmp_path: Path) -> None:
    options = ("--proxy", proxy.url, "--proxy-auth", "anna:s3cret", "--cacert", tmp_path / "ca.pem")
    assert cli("get", *options, https(secure)).code == 0
    assert {line.split(" ")[0] for line in proxy.request_lines} == {"CONNECT"}
    assert all("Proxy-" not in head for head in secure.heads)


def test_m26_the_environment_counts_when_it_is_asked_for(
    cli: Cli, origin: WatchedOrigin, proxy: TestProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url.replace("http://", "http://anna:s3cret@"))
    monkeypatch.setenv("no_proxy", "")
    assert cli("get", origin.url("/large.bin")).code == 0
    assert proxy.connections == 0
    assert cli("get", "--proxy-from-env", origin.url("/small.bin")).code == 0
    assert proxy.connections > 0
    monkeypatch.setenv("http_proxy", "socks5://anna:s3cret@127.0.0.1:1")
    said = cli("get", "--proxy-from-env", origin.url("/small.bin?again"))
    assert (said.code, "s3cret" in said.err) == (2, False)


def test_insecure(cli: Cli, secure: WatchedOrigin) -> None:
    there = https(secure, "/").rstrip("/")
    assert error_of(cli("get", "--json", "--insecure", "https://127.0.0.1", https(secure))) == "tls"
    assert secure.heads == []
    assert cli("get", "--insecure", there, https(secure)).code == 0


def test_client_certificate_and_netrc(cli: Cli, authority: trustme.CA, secure: WatchedOrigin, tmp_path: Path) -> None:
    leaf = authority.issue_cert("me@example.org")
    leaf.private_key_and_cert_chain_pem.write_to_path(tmp_path / "me.pem")
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login anna password s3cret\n")
    there = https(secure, "/").rstrip("/")
    assert secure._tls is not None
    secure._tls.verify_mode = ssl.CERT_REQUIRED
    options = ("--cacert", tmp_path / "ca.pem", "--netrc-file", tmp_path / "netrc")
    mine = ("--client-cert", tmp_path / "me.pem", "--client-cert-origin", there)
    assert cli("get", *options, *mine, https(secure)).code == 0
    assert all(f"Authorization: {basic(LOGIN)}" in head for head in secure.heads)


def test_netrc_of_the_home_folder(
    cli: Cli, secure: WatchedOrigin, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login anna password s3cret\n")
    for options, sent in (((), False), (("--netrc",), True)):
        secure.heads.clear()
        assert cli("get", "--cacert", tmp_path / "ca.pem", *options, https(secure, f"/small.bin?{sent}")).code == 0
        assert [("Authorization" in head) for head in secure.heads] == [sent] * len(secure.heads)


MISTAKES = {
    "no network": ("--allow-address", "nas"),
    "proxy of another kind": ("--proxy", "socks5://p:1"),
    "password in the proxy's URL": ("--proxy", "http://u:s3cret@p:1"),
    "proxy login without a colon": ("--proxy", "p", "--proxy-auth", "s3cret"),
    "proxy login without a proxy": ("--proxy-auth", "u:s3cret"),
    "no such login file": ("--proxy", "p", "--proxy-auth", "@/nonexistent"),
    "no such port": ("--proxy", "p", "--no-proxy", "host:0"),
    "insecure http": ("--insecure", "http://h"),
    "insecure URL": ("--insecure", "https://h/x"),
    "certificate for nobody": ("--client-cert", "/dev/null"),
    "no certificate": ("--client-cert-origin", "https://h"),
    "certificate that is none": ("--client-cert", "/dev/null", "--client-cert-origin", "https://h"),
    "no such netrc": ("--netrc-file", "/nonexistent"),
    "no origin": ("--header-origin", "h"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_before_anything_is_done(cli: Cli, root: Path, name: str) -> None:
    said = cli("get", *MISTAKES[name], "https://h/x")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith("offline-engine: ")
    assert "s3cret" not in said.err
    assert not root.exists()


def test_whom_to_trust_cannot_be_told_to_another_process(cli: Cli, root: Path, served: dict[str, str]) -> None:
    with WatchedOrigin(served, bytes_per_s=1e6) as slow, downloading(root, slow, cli):
        said = cli("get", "--insecure", "https://h", "--proxy", "p:1", slow.url("/small.bin"))
        assert said.code == 2
        assert "--proxy, --insecure cannot be given to an engine that runs already" in said.err


@pytest.mark.parametrize("verb", ["get", "run", "verify"])
def test_every_verb_that_connects_has_every_option_and_tells_of_it(cli: Cli, verb: str) -> None:
    options = "--cacert f --allow-address 10.0.0.0/8 --public-only --proxy p --proxy-auth u:p --no-proxy x"
    options += " --proxy-from-env --client-cert f --client-key f --client-key-password-file f"
    options += " --client-cert-origin o --insecure o --netrc --netrc-file f"
    given = parse([verb, *options.split()])
    assert list(trust_options_given(given)) == re.findall(r"--\S+", options)
    assert list(trust_options_given(parse([verb]))) == []
    told = cli(verb, "--help").out
    assert [option for option in trust_options_given(given) if option not in told] == []
