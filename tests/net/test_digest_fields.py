"""Digests in heads (RFC 9530, and the older Content-MD5): believed only when they are plainly what they should be."""

from __future__ import annotations

import base64
import hashlib

import pytest

from engine.config import Config
from engine.errors import CorruptBody
from engine.net.body_digest import BodyDigest
from engine.net.digest_fields import content_digests, parse_content_md5, parse_digests, whole_digests
from engine.net.head import Head, scan_head

BODY = b"some bytes of media"
SHA256 = hashlib.sha256(BODY)
SHA512 = hashlib.sha512(BODY)
MD5 = hashlib.md5(BODY, usedforsecurity=False)


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


STATED_256 = f"sha-256=:{b64(SHA256.digest())}:"
STATED_512 = f"sha-512=:{b64(SHA512.digest())}:"
BOTH = {"sha256": SHA256.hexdigest(), "sha512": SHA512.hexdigest()}
ONE = {"sha256": SHA256.hexdigest()}


def head(status: int, *fields: str) -> Head:
    lines = [f"HTTP/1.1 {status} X", "Content-Length: 19", *fields, "", ""]
    return scan_head("\r\n".join(lines).encode("latin-1"), Config())


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (STATED_256, ONE),
        (f"{STATED_256}, {STATED_512}", BOTH),
        (f"{STATED_512} ,\t{STATED_256}", BOTH),
        (f"{STATED_256};q=1;note=abc", ONE),
        (f"md5=:{b64(MD5.digest())}:, {STATED_256}", ONE),
        (f"unixsum=:AAE=:, {STATED_256}", ONE),
        (f"md5=:{b64(MD5.digest())}:", {}),
    ],
)
def test_what_is_believed(text: str, found: dict[str, str]) -> None:
    assert parse_digests(text) == found


@pytest.mark.parametrize(
    "text",
    [
        "",
        "sha-256",
        "sha-256=",
        "sha-256=::",
        f"sha-256={b64(SHA256.digest())}",
        f'sha-256="{b64(SHA256.digest())}"',
        f"sha-256=:{SHA256.hexdigest()}:",
        f"sha-256=:{b64(SHA256.digest())[:-4]}:",
        f"sha-256=:{b64(SHA256.digest()[:16])}:",
        f"sha-256=:{b64(SHA512.digest())}:",
        f"SHA-256=:{b64(SHA256.digest())}:",
        f"sha-256 =:{b64(SHA256.digest())}:",
        f"{STATED_256},",
        f"{STATED_256}, {STATED_256}",
        f"{STATED_256}; q = 1",
        f"{STATED_256}, x=(1 2)",
        f"{STATED_256}" + ", a=:AA==:" * 20,
        STATED_256 + " " * 2000,
        f"sha-256=:{'A' * 43}\u0661:",
        "sha-256=:" + "=" * 44 + ":",
    ],
)
def test_m20_m22_anything_else_is_as_if_it_were_not_there(text: str) -> None:
    assert parse_digests(text) == {}


@pytest.mark.parametrize("text", ["", "x", MD5.hexdigest(), b64(MD5.digest()[:8]), b64(SHA256.digest()), "=" * 24])
def test_m22_a_content_md5_that_is_none(text: str) -> None:
    assert parse_content_md5(text) == ""


def test_what_a_head_says_of_the_whole_file() -> None:
    assert whole_digests(head(206, f"Repr-Digest: {STATED_256}")) == ONE
    assert whole_digests(head(200, f"Repr-Digest: {STATED_512}, {STATED_256}")) == ONE
    assert whole_digests(head(200, f"Repr-Digest: {STATED_512}", f"Repr-Digest: {STATED_256}")) == ONE
    assert whole_digests(head(200, f"Content-Digest: {STATED_256}")) == ONE
    assert whole_digests(head(200, f"Content-MD5: {b64(MD5.digest())}")) == {"md5": MD5.hexdigest()}
    assert whole_digests(head(206, f"Content-Digest: {STATED_256}")) == {}
    assert whole_digests(head(206, f"Content-MD5: {b64(MD5.digest())}")) == {}
    assert whole_digests(head(200)) == {}


def test_a_content_md5_of_a_part_is_not_believed() -> None:
    """Of a part it says one thing with some servers, and another with others (RFC 7231, appendix B)."""
    assert content_digests(head(206, f"Content-MD5: {b64(MD5.digest())}")) == {}


async def test_a_part_is_checked_against_its_own_digest() -> None:
    for body, good in ((BODY, True), (BODY + b"!", False), (b"", False)):
        check = BodyDigest.of(head(206, f"Content-Digest: {STATED_256}"), "http://host/film?key=…")
        assert check is not None
        for at in range(0, len(body), 5):
            await check.update(memoryview(body)[at : at + 5])
        if good:
            check.finish()
            continue
        with pytest.raises(CorruptBody, match=r"http://host/film\?key=…: the sha256"):
            check.finish()


async def test_a_large_body_is_hashed_beside_the_loop() -> None:
    data = bytes(range(256)) * 1024
    check = BodyDigest("sha256", hashlib.sha256(data).hexdigest(), "here")
    await check.update(memoryview(data))
    check.finish()


def test_nothing_is_checked_without_a_digest() -> None:
    assert BodyDigest.of(head(206), "here") is None
    assert BodyDigest.of(head(200, f"Content-Digest: {STATED_256}"), "here") is None
