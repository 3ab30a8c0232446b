"""Metalink documents: what is read of them, and what is refused (M10, M13, M15, M20 of the fault catalogue)."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import DownloadRequest, InvalidRequest, requests_from_metalink
from engine.files.names import FOLDERS_MAX
from engine.media.metalink import DEPTH_MAX, DOCUMENT_BYTES_MAX, FILES_MAX, TEXT_CHARS_MAX, URLS_MAX
from engine.model.records import PIECES_MAX

HEAD = '<?xml version="1.0" encoding="UTF-8"?>'
DATA = bytes(range(250))
SHA256 = hashlib.sha256(DATA).hexdigest()
SHA1 = hashlib.sha1(DATA, usedforsecurity=False).hexdigest()
PIECES = [hashlib.sha256(DATA[at : at + 100]).digest() for at in range(0, 250, 100)]


def document(*files: str) -> bytes:
    return f'{HEAD}<metalink xmlns="urn:ietf:params:xml:ns:metalink">{"".join(files)}</metalink>'.encode()


def file(*content: str, name: str = "film.mkv", url: str = "<url>http://h/f</url>") -> str:
    return f'<file name="{name}">{"".join(content)}{url}</file>'


def pieces(digests: list[str], kind: str = "sha-256", length: str = "100") -> str:
    return f'<pieces type="{kind}" length="{length}">{"".join(f"<hash>{one}</hash>" for one in digests)}</pieces>'


WHOLE = document(
    "<generator>a tool</generator><published>2026-01-01</published>",
    file(
        "<size>250</size><identity>Film</identity><language>en</language>",
        f'<hash type="sha-1">{SHA1}</hash><hash type="sha-256"> {SHA256.upper()} </hash><hash type="odd">zz</hash>',
        pieces(["ab" * 20] * 3, "sha-1"),
        pieces([digest.hex() for digest in PIECES]),
        pieces(["x"], "crc"),
        '<metaurl mediatype="torrent">http://h/t.torrent</metaurl>',
        url='<url priority="3" location="de">http://three/f</url><url>https://last/f</url>'
        '<url priority="1">HTTP://one/f?a=1&amp;b=2</url><url priority="2">ftp://two/f</url>'
        '<url priority="1">http://onetoo/f</url><url priority="9">http://three/f</url>',
    ),
)


def test_a_whole_document() -> None:
    (request,) = requests_from_metalink(WHOLE)
    assert (request.url, request.mirrors) == (
        "HTTP://one/f?a=1&b=2",
        ("http://onetoo/f", "http://three/f", "https://last/f"),
    )
    assert request.expected_length == 250
    assert request.expect == {"sha256": SHA256}
    assert request.pieces is not None
    assert (request.pieces.algorithm, request.pieces.piece_bytes) == ("sha256", 100)
    assert request.pieces.digests == b"".join(PIECES)
    assert (request.destination, request.title, request.named) == (None, "film.mkv", True)


def test_the_template_has_its_say() -> None:
    template = DownloadRequest(url="x", destination="/d/", priority=3, title="Mine")
    first, second = requests_from_metalink(document(file(), file(name="b.mkv")), template=template)
    assert [request.destination for request in (first, second)] == ["/d/film.mkv", "/d/b.mkv"]
    assert (first.priority, first.title) == (3, "Mine")
    checked = DownloadRequest(url="x", expect={"md5": "0" * 32}, expected_length=9)
    [only] = requests_from_metalink(document(file()), template=checked)
    assert (only.expect, only.expected_length) == ({"md5": "0" * 32}, 9)
    alone = DownloadRequest(url="x", destination="/d/other.mkv")
    assert requests_from_metalink(document(file()), template=alone)[0].destination == "/d/other.mkv"


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("../../etc/passwd.mkv", "passwd.mkv"),
        ("/abs/film.mkv", "film.mkv"),
        ("a\\b\\film.mkv", "a/b/film.mkv"),
        ("CD 1/01.flac", "CD 1/01.flac"),
        ("a/../film.mkv", "film.mkv"),
        ("./.ssh//keys.txt", "ssh/keys.txt"),
        ("Player.app/Contents/x.txt", "Player_app/Contents/x.txt"),
        ("a/..", "download"),
        ("con/nul.mkv", "_con/_nul.mkv"),
        ("Mr. Big/Vol. 1.5/f.mkv", "Mr. Big/Vol. 1.5/f.mkv"),
        (".bashrc", "bashrc"),
        ("", "download"),
        ("evil.sh", "evil.sh.download"),
    ],
)
def test_names_stay_in_the_folder(name: str, safe: str) -> None:
    template = DownloadRequest(url="x", destination="/d/")
    (request,) = requests_from_metalink(document(file(name=name)), template=template)
    assert request.destination == f"/d/{safe}"


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (None, True),
        ("http://127.0.0.1:1/a.meta4", True),
        ("http://localhost/a", True),
        ("https://far.example/a", False),
    ],
)
def test_a_stranger_cannot_name_addresses(source: str | None, named: bool) -> None:
    (request,) = requests_from_metalink(document(file()), source=source)
    assert request.named is named


def test_headers_go_to_origins_that_the_caller_chose() -> None:
    """Whatever host a document names, it does not get what was meant for another."""
    template = DownloadRequest(url="x", secret_headers=(("Authorization", "x"),))
    (request,) = requests_from_metalink(document(file()), template=template, source="http://127.0.0.1:8/a.meta4")
    assert (request.named, request.header_origins) == (False, ("http://127.0.0.1:8",))
    with pytest.raises(InvalidRequest, match="origins"):
        requests_from_metalink(document(file()), template=template)


def test_more_pieces_than_are_kept_are_left_out() -> None:
    many = pieces(["0" * 32] * (PIECES_MAX + 1), "md5", "1")
    (request,) = requests_from_metalink(document(file(f"<size>{PIECES_MAX + 1}</size>", many)))
    assert request.pieces is None


@pytest.mark.parametrize("given", [{"id": "a"}, {"expect": {"md5": "0" * 32}}, {"expected_length": 9}])
def test_what_is_said_of_one_file_is_not_said_of_two(given: dict[str, Any]) -> None:
    with pytest.raises(InvalidRequest, match="one file, and the document lists 2"):
        requests_from_metalink(document(file(), file(name="b.mkv")), template=DownloadRequest(url="x", **given))


def test_more_urls_than_are_kept_are_left_out() -> None:
    urls = "".join(f"<url>http://h{number}/f</url>" for number in range(URLS_MAX + 10))
    (request,) = requests_from_metalink(document(file(url=urls)))
    assert len(request.mirrors) == URLS_MAX - 1


BOMB = HEAD + '<!DOCTYPE m [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]>'
BAD: list[tuple[str, bytes, str]] = [
    ("empty", b"", "no Metalink"),
    ("not XML", b"<html><body>", "no Metalink"),
    ("another document", b"<html></html>", "version 4"),
    ("version 3", b'<metalink version="3.0" xmlns="http://www.metalinker.org/"/>', "version 4"),
    ("no namespace", b"<metalink><file name='a'/></metalink>", "version 4"),
    ("cut", WHOLE[:-20], "no Metalink"),
    ("bytes that are no text", HEAD.encode() + b"<metalink>\xff\xfe", "Metalink"),
    ("an encoding nobody knows", b'<?xml version="1.0" encoding="x-odd"?><metalink/>', "no Metalink"),
    ("no file", document(), "no file"),
    ("no URL", document(file(url="")), "no http or https URL"),
    ("only ftp", document(file(url="<url>ftp://h/f</url>")), "no http or https URL"),
    ("M10 DOCTYPE", (BOMB + "<metalink/>").encode(), "DOCTYPE"),
    ("M10 external", (HEAD + '<!DOCTYPE m SYSTEM "file:///etc/passwd"><metalink/>').encode(), "DOCTYPE"),
    ("M10 entity", document(file("<identity>&xxe;</identity>")), "no Metalink"),
    ("M15 deep", document(file("<a>" * DEPTH_MAX)), "deeper"),
    ("M13 a long text", document(file(f"<identity>{'x' * (TEXT_CHARS_MAX + 1)}</identity>")), "characters"),
    ("M20 a long number", document(file(f"<size>{'9' * 5000}</size>")), "size"),
    ("M20 other digits", document(file("<size>\u0661\u0662</size>")), "size"),
    ("a negative size", document(file("<size>-1</size>")), "size"),
    ("too big", document(file(f"<size>{2**50}</size>")), "size"),
    ("a priority that is none", document(file(url='<url priority="x">http://h/f</url>')), "priority"),
    ("a hash that is none", document(file(f'<hash type="sha-256">{"g" * 64}</hash>')), "sha256"),
    ("a short hash", document(file('<hash type="md5">00</hash>')), "md5"),
    ("two hashes", document(file(*(f'<hash type="md5">{d * 32}</hash>' for d in "01"))), "two md5"),
    ("pieces without a length", document(file(pieces(["0" * 64], length=""))), "length"),
    ("pieces of nothing", document(file(pieces(["0" * 64], length="0"))), "length"),
    ("a piece's hash that is none", document(file(pieces(["0" * 63]))), "sha256"),
    ("too few pieces", document(file("<size>250</size>", pieces(["0" * 64] * 2))), "do not describe"),
    ("too many pieces", document(file("<size>250</size>", pieces(["0" * 64] * 4))), "do not describe"),
    ("two files of one name", document(file(name="x/film.mkv"), file(name="./x/film.mkv")), "one name"),
    ("a file too deep", document(file(name="a/" * (FOLDERS_MAX + 1) + "f.mkv")), "folders deep"),
    ("too many files", document(file() * (FILES_MAX + 1)), "more than"),
    ("too large", b" " * (DOCUMENT_BYTES_MAX + 1), "not read"),
]  # fmt: skip


@pytest.mark.parametrize(("data", "word"), [row[1:] for row in BAD], ids=[row[0] for row in BAD])
def test_bad_documents(data: bytes, word: str) -> None:
    with pytest.raises(InvalidRequest, match=word):
        requests_from_metalink(data)


def test_one_id_is_for_one_file() -> None:
    with pytest.raises(InvalidRequest, match="an id"):
        requests_from_metalink(document(file(), file(name="b")), template=DownloadRequest(url="x", id="mine"))


@given(st.data())
def test_damaged_documents_are_read_or_refused(data: st.DataObject) -> None:
    """Nothing but InvalidRequest comes of any damage."""
    damaged = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(damaged) - 1))
        damaged[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
    try:
        requests = requests_from_metalink(bytes(damaged))
    except InvalidRequest:
        return
    assert all(request.url.lower().startswith("http") for request in requests)
