"""Requests are checked before anything is done, and merged by written rules (fault catalogue H12, M16-M18, M22)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from engine.config import TIB, Config
from engine.control.requests import derive_id, entry_of, merge, split_fields, with_known_id
from engine.errors import InvalidRequest
from engine.model.records import DownloadEntry, DownloadRequest, Durability
from engine.model.states import State

URL = "http://host.example/film.mkv"


def entry(request: DownloadRequest) -> DownloadEntry:
    return entry_of(request, Config(), 5.0)


def asked(**fields: object) -> DownloadRequest:
    return DownloadRequest(**({"url": URL} | fields))  # type: ignore[arg-type]


WRONG: list[dict[str, object]] = [
    {"url": ""},
    {"url": "film.mkv"},
    {"url": "/film.mkv"},
    {"url": "ftp://host.example/film.mkv"},
    {"url": "file:///etc/passwd"},
    {"url": "data:,x"},
    {"url": "javascript:x"},
    {"url": "http://"},
    {"url": "http:///film.mkv"},
    {"url": "http://user@host.example/"},
    {"url": "http://user:secret@host.example/"},
    {"url": "http://a.com\\@evil.com/"},
    {"url": "http://host.example:99999/"},
    {"url": "http://host.example:x/"},
    {"url": "http://host.example/\r\nX: y"},
    {"url": "http://host.example/a b"},
    {"url": "http://host\t.example/"},
    {"url": "http://[::1/"},
    {"headers": (("X-A", "a\r\nHost: evil"),)},
    {"headers": (("X-A", "a\0b"),)},
    {"headers": (("X A", "b"),)},
    {"headers": (("", "b"),)},
    {"headers": (("Host", "evil"),)},
    {"headers": (("content-length", "5"),)},
    {"headers": (("Transfer-Encoding", "chunked"),)},
    {"headers": (("RANGE", "bytes=0-1"),)},
    {"headers": (("Connection", "close"),)},
    {"secret_headers": (("Authorization", "x\ny"),)},
    {"expect": {"crc32": "00000000"}},
    {"expect": {"sha256": "0" * 63}},
    {"expect": {"sha256": "g" * 64}},
    {"expect": {"sha256": ""}},
    {"expect": {"md5": "0" * 64}},
    {"expect": {"sha256": "\u0660" * 64}},
    {"expected_length": -1},
    {"expected_length": 17 * TIB},
    {"connections": 0},
    {"connections": -3},
    {"connections": 17},
    {"durability": Durability("eternal")},
    {"priority": 2**31},
    {"priority": -(2**31) - 1},
    {"id": ""},
    {"id": "x" * 513},
    {"id": "é" * 257},
    {"id": "a\nb"},
    {"id": "a\0"},
    {"destination": ""},
    {"destination": "a\0b"},
    {"destination": "/" + "x/" * 3000},
]


@pytest.mark.parametrize("fields", WRONG, ids=str)
def test_what_cannot_work_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidRequest) as raised:
        entry(asked(**fields))
    assert "secret" not in str(raised.value)


RIGHT: list[dict[str, object]] = [
    {"url": "https://host.example/"},
    {"url": "HTTP://HOST.example:8080/a%20b?c=d"},
    {"url": "http://[::1]:80/x"},
    {"url": "http://127.0.0.1/x"},
    {"headers": (("X-A", "b"), ("x-a", "c"), ("User-Agent", "me"))},
    {"expect": {"SHA256": "AB" * 32}},
    {"expect": {"blake3": "0" * 64, "md5": "1" * 32, "sha1": "2" * 40, "sha512": "3" * 128, "sha384": "4" * 96}},
    {"expected_length": 0},
    {"expected_length": 16 * TIB},
    {"connections": 1},
    {"connections": 16},
    {"priority": -(2**31)},
    {"id": "x" * 512},
    {"id": "Sóng 歌"},
    {"destination": "relative.mkv"},
]


@pytest.mark.parametrize("fields", RIGHT, ids=str)
def test_what_can_work_is_taken(fields: dict[str, object]) -> None:
    made = entry(asked(**fields))
    assert made.state is State.PENDING
    assert (made.created_at, made.updated_at, made.epoch) == (5.0, 5.0, 1)
    assert all(value == value.lower() and name == name.lower() for name, value in made.expect.items())


def test_the_id_follows_from_what_is_asked() -> None:
    same = entry(asked())
    assert entry(asked(title="x", priority=3, connections=2)).id == same.id == derive_id(asked())
    others = [
        asked(url=URL + "?"),
        asked(scope="me"),
        asked(destination="/a"),
        asked(destination="/a/"),
        asked(destination="/b"),
    ]
    ids = {entry(other).id for other in others}
    assert len(ids | {same.id}) == len(others) + 1
    assert entry(asked(id="mine")).id == "mine"


def test_where_a_destination_leads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    cases = {
        None: ("", True),
        "there": (str(tmp_path / "there"), True),
        "there/": (str(tmp_path / "there"), True),
        "new": (str(tmp_path / "new"), False),
        "new/": (str(tmp_path / "new"), True),
        "a/../b": (str(tmp_path / "b"), False),
        str(tmp_path / "c"): (str(tmp_path / "c"), False),
        os.curdir: (str(tmp_path), True),
    }
    for wish, (path, is_folder) in cases.items():
        made = entry(asked(destination=wish))
        assert (made.destination, made.destination_is_folder) == (path, is_folder), wish


def test_credentials_are_split_off() -> None:
    """M24."""
    request = asked(
        headers=(("Accept", "*/*"), ("authorization", "a"), ("COOKIE", "c"), ("X-Api-Key", "k")),
        secret_headers=(("X-Mine", "m"),),
    )
    kept, secret = split_fields(request)
    assert kept == (("Accept", "*/*"),)
    assert {value for _, value in secret} == {"a", "c", "k", "m"}
    made = entry(request)
    assert made.headers == kept
    assert set(made.secret_header_names) == {"authorization", "cookie", "x-api-key", "x-mine"}


MERGED = (
    "sources", "headers", "secret_header_names", "overwrite", "expect", "expected_length", "priority", "durability",
    "connections", "title",
)  # fmt: skip


@pytest.mark.parametrize("state", list(State))
def test_what_asking_again_changes(state: State) -> None:
    old = replace(entry(asked(id="x", title="old", expect={"md5": "0" * 32})), state=state, epoch=4, attempt_count=7)
    new = entry(
        asked(
            id="x", url="https://mirror.example/y", title="new", priority=9, connections=2, expected_length=5,
            overwrite=True, durability=Durability.RELAXED, headers=(("X", "1"),), secret_headers=(("Y", "2"),),
        )
    )  # fmt: skip
    merged = merge(old, new)
    for name in merged.__struct_fields__:
        source = new if name in MERGED else old
        assert getattr(merged, name) == getattr(source, name), name


def test_a_title_is_kept_when_none_is_given() -> None:
    assert merge(entry(asked(id="x", title="old")), entry(asked(id="x"))).title == "old"


@pytest.mark.parametrize("state", list(State))
def test_an_entry_cannot_move(state: State) -> None:
    """H11."""
    old = replace(entry(asked(id="x", destination="/a/b")), state=state)
    for elsewhere in ("/a/c", "/a/b/", None):
        with pytest.raises(InvalidRequest, match="goes to /a/b"):
            merge(old, entry(asked(id="x", destination=elsewhere)))


@given(
    st.builds(
        DownloadRequest,
        url=st.one_of(st.text(max_size=60), st.text(max_size=30).map(lambda text: "http://h/" + text)),
        id=st.none() | st.text(max_size=40),
        headers=st.lists(st.tuples(st.text(max_size=10), st.text(max_size=10)), max_size=2).map(tuple),
        expect=st.dictionaries(st.sampled_from(["sha256", "md5", "x"]), st.text(max_size=70), max_size=2),
        destination=st.none() | st.text(max_size=30),
        connections=st.none() | st.integers(),
        priority=st.integers(),
    )
)
def test_any_request_is_taken_or_refused(request: DownloadRequest) -> None:
    """M20: nothing else is ever raised."""
    try:
        made = entry(request)
    except InvalidRequest:
        return
    assert made.url.startswith(("http://", "https://"))
    assert 0 < len(made.id.encode()) <= 512
    assert made.url.isascii()


SPELLINGS = ("http://h.test/a#part", "HTTP://H.test/a", "http://h.test:80/a", "http://h.test/a")


def test_one_url_is_one_entry_however_it_is_spelled() -> None:
    assert len({derive_id(DownloadRequest(url=url)) for url in SPELLINGS}) == 1
    assert derive_id(DownloadRequest(url="http://h.test/A")) != derive_id(DownloadRequest(url="http://h.test/a"))
    assert derive_id(DownloadRequest(url="http://h.test/a?b")) != derive_id(DownloadRequest(url="http://h.test/a"))


def test_the_id_of_a_plain_url_is_what_it_always_was() -> None:
    """Version 0.1.0: the hash of the URL as it was spelled."""
    text = "\x00http://h.test/a\x00\x00True"
    assert derive_id(DownloadRequest(url="http://h.test/a")) == blake3(text.encode()).hexdigest(16)


def test_the_id_that_an_older_version_gave_is_found() -> None:
    url = "http://h.test/a#part"
    older = blake3(f"\x00{url}\x00\x00True".encode()).hexdigest(16)
    today = derive_id(DownloadRequest(url=url))
    for there, wanted in (({older}, older), ({older, today}, None), ({today}, None), (set(), None)):
        assert with_known_id(DownloadRequest(url=url), there.__contains__).id == wanted
    assert with_known_id(DownloadRequest(url=url, id="own"), {older}.__contains__).id == "own"
    with pytest.raises(InvalidRequest):
        with_known_id(DownloadRequest(url="nothing"), set().__contains__)
