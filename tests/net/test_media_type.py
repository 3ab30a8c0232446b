"""A page in place of media: the network's, the server's, or just what was asked for (N15, S42)."""

from __future__ import annotations

import pytest

from engine.config import Config
from engine.errors import CaptivePortal, WrongType
from engine.net.head import scan_head
from engine.net.media_type import Wanted, check_media_type, is_media_range
from engine.net.url import parse_url

HTML = "text/html; charset=utf-8"
FILM = "http://cdn.example/film.mp4"
SAFE = "https://cdn.example/film.mp4"
PAGE = "http://cdn.example/page"
LOGIN = "http://login.example/portal"

# name: (status, Content-Type, asked, answered, types, before) -> None, or what is raised
CASES: dict[str, tuple[int, str, str, str, tuple[str, ...], str, type[Exception] | None]] = {
    "media": (200, "video/mp4", FILM, FILM, (), "", None),
    "media after media": (206, "video/mp4", FILM, FILM, (), "video/mp4", None),
    "no type": (200, "", FILM, FILM, (), "video/mp4", None),
    "no type is told": (200, "application/octet-stream", FILM, FILM, ("video/*",), "", None),
    "a page that was asked for": (200, HTML, PAGE, PAGE, (), "", None),
    "a page named so": (200, HTML, PAGE + ".html", PAGE + ".html", (), "", None),
    "a page behind a redirect": (200, HTML, PAGE, LOGIN, (), "", None),
    "a page after a page": (206, HTML, FILM, FILM, (), "text/html", None),
    "a page that is wanted": (200, HTML, FILM, FILM, ("text/html",), "video/mp4", None),
    "text shown as a page": (200, HTML, "http://h/notes.txt", "http://h/notes.txt", (), "", None),
    "another kind of media": (200, "video/webm", FILM, FILM, (), "video/mp4", None),
    "N15 511": (511, HTML, PAGE, PAGE, (), "", CaptivePortal),
    "N15 511 behind a redirect": (511, HTML, FILM, "https://login.example/", (), "", CaptivePortal),
    "N15 511 of the host itself": (511, HTML, FILM, SAFE, (), "", None),
    "N15 511 over https is the server's own": (511, HTML, SAFE, SAFE, (), "", None),
    "N15 511 over https, redirected": (511, HTML, SAFE, "https://login.example/", (), "video/mp4", None),
    "N15 a page where media was": (200, HTML, FILM, FILM, (), "video/mp4", CaptivePortal),
    "N15 a page where a range was": (206, HTML, PAGE, PAGE, (), "audio/flac", CaptivePortal),
    "N15 a redirect to a login": (200, HTML, FILM, LOGIN, (), "", CaptivePortal),
    "N15 a redirect to a safe login": (200, HTML, FILM, "https://login.example/", (), "", CaptivePortal),
    "N15 XHTML": (200, "APPLICATION/XHTML+XML", FILM, LOGIN, (), "", CaptivePortal),
    "N15 a page where a type was wanted": (200, HTML, PAGE, LOGIN, ("audio/*",), "", CaptivePortal),
    "S42 a page under a media name": (200, HTML, FILM, FILM, (), "", WrongType),
    "S42 a page of the same host": (200, HTML, FILM, PAGE, (), "", WrongType),
    "S42 over https no network answers": (200, HTML, SAFE, SAFE, (), "video/mp4", WrongType),
    "S42 a login of the server's own": (200, HTML, SAFE, "https://login.example/", (), "", WrongType),
    "S42 a query does not name it": (200, HTML, PAGE + "?x=a.mp4", PAGE + "?x=a.mp4", (), "", None),
    "S42 another type than wanted": (200, "image/png", FILM, FILM, ("video/*", "audio/flac"), "", WrongType),
    "S42 a page where a type was wanted": (200, HTML, PAGE, PAGE, ("video/*",), "", WrongType),
    "an error's page": (404, HTML, FILM, FILM, (), "video/mp4", None),
    "416's page": (416, HTML, FILM, FILM, (), "video/mp4", None),
}


@pytest.mark.parametrize("name", CASES)
def test_what_kind_of_thing_came(name: str) -> None:
    status, kind, asked, answered, types, before, expected = CASES[name]
    lines = [f"HTTP/1.1 {status} X", "Content-Length: 5", *([f"Content-Type: {kind}"] if kind else []), "", ""]
    head = scan_head("\r\n".join(lines).encode(), Config())
    wanted = Wanted(types, before)
    if expected is None:
        check_media_type(head, parse_url(asked), parse_url(answered), wanted)
        return
    with pytest.raises(expected) as caught:
        check_media_type(head, parse_url(asked), parse_url(answered), wanted)
    assert getattr(caught.value, "status", None) == status


def test_a_signed_query_is_not_told() -> None:
    head = scan_head(b"HTTP/1.1 200 X\r\nContent-Length: 5\r\nContent-Type: text/html\r\n\r\n", Config())
    url = parse_url("https://cdn.example/film.mp4?sig=SECRET")
    for other in (url, parse_url("https://login.example/?token=SECRET")):
        with pytest.raises(WrongType) as caught:
            check_media_type(head, url, other, Wanted())
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("text", ["audio/flac", "video/*", "*/*", "application/vnd.apple.mpegurl", "image/svg+xml"])
def test_types_that_may_be_wanted(text: str) -> None:
    assert is_media_range(text)


@pytest.mark.parametrize("text", ["", "audio", "audio/", "/flac", "*/flac", "audio/flac; q=1", "Audio/flac", "a b/c"])
def test_what_is_no_type(text: str) -> None:
    assert not is_media_range(text)
