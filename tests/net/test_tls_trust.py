"""TLS trust beside the default: client certificates, origins that are not verified, netrc (N16, S41, M26)."""

from __future__ import annotations

import datetime as dt
import logging
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from engine.config import Config
from engine.errors import ConnectionLost, InvalidRequest, TlsError
from engine.net.addresses import AddressPolicy
from engine.net.client import Client
from engine.net.trust import ClientCertificate, Trust
from engine.net.url import Origin, parse_url
from tests.net.script_server import Asked, ScriptServer, Step, answer, serve

QUICK = Config(connect_timeout_s=2.0, tls_timeout_s=2.0, first_byte_timeout_s=2.0, idle_timeout_s=2.0)
NAME = "localhost"


@dataclass(frozen=True)
class Authority:
    """A certificate authority, and files of it."""

    ca: trustme.CA
    folder: Path

    @property
    def cafile(self) -> str:
        path = self.folder / "ca.pem"
        self.ca.cert_pem.write_to_path(str(path))
        return str(path)

    def server_side(self, *, wants_certificate: bool = False, tls_1_2: bool = False) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(NAME, "127.0.0.1").configure_cert(context)
        if wants_certificate:
            self.ca.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        if tls_1_2:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
        return context

    def mine(self, password: bytes | None = None) -> tuple[str, str]:
        """A client certificate and its key, in two files."""
        leaf = self.ca.issue_cert("me@example.org")
        cert, key = self.folder / "me.pem", self.folder / "me.key"
        cert.write_bytes(b"".join(blob.bytes() for blob in leaf.cert_chain_pems))
        if password is None:
            key.write_bytes(leaf.private_key_pem.bytes())
        else:
            loaded = serialization.load_pem_private_key(leaf.private_key_pem.bytes(), None)
            encryption = serialization.BestAvailableEncryption(password)
            form = serialization.PrivateFormat.PKCS8
            key.write_bytes(loaded.private_bytes(serialization.Encoding.PEM, form, encryption))
        return str(cert), str(key)


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(trustme.CA(), tmp_path)


async def get(client: Client, url: str, fields: tuple[tuple[str, str], ...] = ()) -> bytes:
    async with client.get(parse_url(url), fields=fields) as exchange:
        view = memoryview(bytearray(100))
        return bytes(view[: await exchange.fill(view)])


def x(_: Asked) -> list[Step]:
    return [answer(b"x")]


@pytest.mark.parametrize("password", [None, b"s3cret"])
@pytest.mark.parametrize("tls_1_2", [True, False])
async def test_a_client_certificate(authority: Authority, password: bytes | None, tls_1_2: bool) -> None:
    cert, key = authority.mine(password)
    async with serve(x, tls=authority.server_side(wants_certificate=True, tls_1_2=tls_1_2), host=NAME) as server:
        certificate = ClientCertificate(certfile=cert, keyfile=key, origins=(server.base,), password=lambda: "s3cret")
        client = Client(QUICK, trust=Trust(cafile=authority.cafile, certificates=(certificate,)))
        assert await get(client, server.base) == b"x"
        await client.aclose()


def refuse_one(listener: socket.socket, context: ssl.SSLContext) -> None:
    """Take a connection, fail its handshake, and see to it that the alert arrives. (``trio.SSLStream`` sends none.)"""
    near, _ = listener.accept()
    secure = context.wrap_socket(near, server_side=True, do_handshake_on_connect=False)
    with pytest.raises(ssl.SSLError):
        secure.do_handshake()
    with socket.socket(fileno=secure.detach()) as raw:
        raw.shutdown(socket.SHUT_WR)
        while raw.recv(4096):
            pass


@pytest.mark.parametrize("tls_1_2", [True, False])
async def test_n16_a_server_that_wants_a_certificate_and_gets_none(authority: Authority, tls_1_2: bool) -> None:
    """In TLS 1.3 its alert comes behind the handshake; it is told for what it is, and not tried again."""
    client = Client(QUICK, trust=Trust(cafile=authority.cafile))
    context = authority.server_side(wants_certificate=True, tls_1_2=tls_1_2)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse_one, listener, context)
            with pytest.raises(TlsError) as raised:
                await get(client, f"https://127.0.0.1:{listener.getsockname()[1]}/")
    assert "client certificate" in str(raised.value) or tls_1_2
    assert not raised.value.retryable
    await client.aclose()


@pytest.mark.parametrize(
    ("password", "words"),
    [(None, "give its password"), (lambda: "wrong", "cannot be used"), (lambda: str(1 // 0), "ZeroDivision")],
)
def test_an_encrypted_key_needs_its_password(
    authority: Authority, password: Callable[[], str] | None, words: str
) -> None:
    """OpenSSL would ask on the terminal, and the event loop would stand still."""
    cert, key = authority.mine(b"s3cret")
    certificate = ClientCertificate(certfile=cert, keyfile=key, origins=("https://localhost:1",), password=password)
    with pytest.raises(InvalidRequest, match=words):
        Client(QUICK, trust=Trust(certificates=(certificate,)))


def test_a_certificate_file_that_is_none(authority: Authority) -> None:
    certificate = ClientCertificate(certfile=authority.cafile, origins=("https://localhost:1",))  # without a key
    with pytest.raises(InvalidRequest, match="cannot be used"):
        Client(QUICK, trust=Trust(certificates=(certificate,)))


async def test_s41_a_certificate_is_shown_to_its_origins_only(authority: Authority) -> None:
    """The one that wants it but is not named gets none, although it is the same host."""
    cert, key = authority.mine()
    tls = authority.server_side(wants_certificate=True)
    async with serve(x, tls=tls, host=NAME) as named, serve(x, tls=tls, host=NAME) as other:
        certificate = ClientCertificate(certfile=cert, keyfile=key, origins=(named.base,))
        client = Client(QUICK, trust=Trust(cafile=authority.cafile, certificates=(certificate,)))
        assert await get(client, named.base) == b"x"
        with pytest.raises((TlsError, ConnectionLost)):
            await get(client, other.base)
        assert other.asked == []
        await client.aclose()


async def test_n16_insecure_is_for_the_named_origin_alone(
    authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither another port of the host, nor another client, nor a connection of the same pool profits from it."""
    stranger = Authority(trustme.CA(), authority.folder)
    async with (
        serve(x, tls=stranger.server_side(), host=NAME) as trusted,
        serve(x, tls=stranger.server_side(), host=NAME) as other,
    ):
        with caplog.at_level(logging.WARNING, logger="engine"):
            client = Client(QUICK, trust=Trust(insecure=(trusted.base,)))
        assert f"{trusted.base} is not verified" in caplog.text
        assert await get(client, trusted.base) == b"x"
        with pytest.raises(TlsError, match="unknown authority"):
            await get(client, other.base)
        by_address = trusted.base.replace(NAME, "127.0.0.1")
        with pytest.raises(TlsError, match="unknown authority"):
            await get(client, by_address)
        usual = Client(QUICK)
        with pytest.raises(TlsError, match="unknown authority"):
            await get(usual, trusted.base)
        assert other.asked == []
        await client.aclose()
        await usual.aclose()


async def test_n16_a_certificate_for_another_use(authority: Authority) -> None:
    """Wrong extended key usage: a client's certificate does not make a server."""
    key = ec.generate_private_key(ec.SECP256R1())
    issuer = x509.load_pem_x509_certificate(authority.ca.cert_pem.bytes())
    now = dt.datetime.now(dt.UTC)
    builder = x509.CertificateBuilder(
        issuer.subject, x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, NAME)]), key.public_key()
    )
    builder = builder.serial_number(5).not_valid_before(now - dt.timedelta(days=1))
    builder = builder.not_valid_after(now + dt.timedelta(days=1))
    builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(NAME)]), critical=False)
    builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CLIENT_AUTH]), critical=False)
    ca_key = serialization.load_pem_private_key(authority.ca.private_key_pem.bytes(), None)
    assert isinstance(ca_key, ec.EllipticCurvePrivateKey)
    certificate = builder.sign(ca_key, hashes.SHA256())
    path = authority.folder / "wrong.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(path)
    client = Client(QUICK, trust=Trust(cafile=authority.cafile))
    async with serve(x, tls=tls, host=NAME) as server:
        with pytest.raises(TlsError, match="not meant for a server"):
            await get(client, server.base)
    await client.aclose()


NETRC = """
machine localhost login anna password s3cret
default login everyone password s3cret3
"""
ANNA = "Basic YW5uYTpzM2NyZXQ="


async def test_m26_netrc_is_for_the_urls_own_origin(authority: Authority) -> None:
    """Not for a redirect, not even to another port of the machine; not for who is not named; not beside credentials of
    the caller's own."""
    path = authority.folder / "netrc"
    path.write_text(NETRC)
    here = AddressPolicy(allow=("127.0.0.0/8", "::1"))
    client = Client(QUICK, trust=Trust(cafile=authority.cafile, netrc=path, addresses=here))
    other: ScriptServer

    def script(asked: Asked) -> list[Step]:
        targets = {"/away": other.base, "/on": "/end"}
        if asked.target in targets:
            return [answer(b"", f"Location: {targets[asked.target]}", status="302 Found")]
        return [answer(b"x")]

    tls = authority.server_side()
    async with serve(script, tls=tls, host=NAME) as server, serve(x, tls=tls, host=NAME) as other:
        assert await get(client, f"{server.base}/away") == b"x"
        assert await get(client, f"{server.base}/on") == b"x"
        assert [asked.get("authorization") for asked in server.asked] == [ANNA, ANNA, ANNA]
        assert await get(client, other.base.replace(NAME, "127.0.0.1")) == b"x"
        assert await get(client, f"{server.base}/x", (("authorization", "Bearer own"),)) == b"x"
        assert [value for name, value in server.asked[-1].fields if name == "authorization"] == ["Bearer own"]
        assert [asked.get("authorization") for asked in other.asked] == [None, None]
        assert "s3cret" not in repr(client._logins)
        assert client._logins.fields_for(Origin("https", "default", 443)) == (), "a word of the file, not a machine"
    await client.aclose()
