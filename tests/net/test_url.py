"""URLs: M16's differentials, redirects' Locations, redaction."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.errors import BadRedirect, InvalidRequest
from engine.net.url import Url, parse_url, resolve_location

ACCEPTED = {
    "http://example.com": ("http", "example.com", 80, "/"),
    "HTTP://EXAMPLE.com/A": ("http", "example.com", 80, "/A"),
    "https://example.com:8443/a/b?x=1&y=%2F#frag": ("https", "example.com", 8443, "/a/b?x=1&y=%2F"),
    "http://example.com:443?q": ("http", "example.com", 443, "/?q"),
    "http://example.com/?": ("http", "example.com", 80, "/?"),
    "http://127.0.0.1:8080/": ("http", "127.0.0.1", 8080, "/"),
    "http://[::1]:81/x": ("http", "::1", 81, "/x"),
    "http://[2001:DB8:0:0::1]/": ("http", "2001:db8::1", 80, "/"),
    "http://bücher.example/ä?ö=ü": ("http", "xn--bcher-kva.example", 80, "/%C3%A4?%C3%B6=%C3%BC"),
    "http://under_score.example/": ("http", "under_score.example", 80, "/"),
    "http://example.com/a@b:c/..": ("http", "example.com", 80, "/a@b:c/.."),
    "http://example.com/100%": ("http", "example.com", 80, "/100%"),
    'http://example.com/"<>^`{|}': ("http", "example.com", 80, '/"<>^`{|}'),
    "http://1.2.3.4.example/": ("http", "1.2.3.4.example", 80, "/"),
}

REFUSED = [
    "", "example.com", "//example.com/", "ftp://example.com/", "file:///etc/passwd", "data:,x", "javascript:x",
    "http:", "http:/x", "http://", "http:///x", "http://?q", "http://:80/", "http://#f",
    "http://a.com\\@evil.com/", "http://a.com:80@evil.com/", "http://user@host/", "http://user:pw@host/",
    "http://a.com;@evil.com/", "http://a%2fb/", "http://a%00b/", "http://exa%6dple.com/",
    "http://0x7f.1/", "http://0x7f000001/", "http://2130706433/", "http://127.1/", "http://127.0.0.01/",
    "http://1.2.3.256/", "http://1.2.3.4.5/", "http://\uff11\uff12\uff17.1/", "http://0x/", "http://a.0x7f/", "http://a.1/",
    "http://[::1", "http://::1/", "http://[fe80::1%25eth0]/", "http://[fe80::1%eth0]/", "http://[::1]x/",
    "http://[v1.x]/", "http://[127.0.0.1]/", "http://[]/",
    "http://host:0/", "http://host:65536/", "http://host:/", "http://host:8_0/", "http://host:+80/",
    "http://host:٨٠/", "http://host:80:80/", "http://host:000080/",
    "http://ho st/", "http://host/a b", " http://host/", "http://host/ ", "http://host/\t", "ht\ntp://host/",
    "http://host/\r\nX: y", "http://host/\0", "http://host/\x7f", "http://host/\x85", "http://host/\u2028",
    "http://host/\u00a0", "http://host\u2100/", "http://a..b/", "http://.a/", "http://a./", "http://-a/", "http://a-/",
    "http://" + "a" * 64 + "/", "http://" + "a." * 130 + "b/", "http://a*b/", "http://a,b/", "http://a\uff0fb/",
    "http://host/\ud800", "http://host/" + "a" * 8200, "http://host/" + "ä" * 2000,
]  # fmt: skip


@pytest.mark.parametrize(("text", "parts"), ACCEPTED.items())
def test_accepted(text: str, parts: tuple[str, str, int, str]) -> None:
    url = parse_url(text)
    assert (url.scheme, url.host, url.port, url.target) == parts
    assert parse_url(str(url)) == url


@pytest.mark.parametrize("text", REFUSED)
def test_m16_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    ["http://u:s3cret@h/", "http://u:s3cret@h:0/", "http://u:s3cret℀@h/", "http://u:s3cret@[/", "http://h:s3cret/",
     "http://u:s3cret@h\\x", "ftp://u:s3cret@h/", "http://h/?s3cret\n", "http://h℀/?token=s3cret"],
)  # fmt: skip
def test_m24_what_is_wrong_is_told_without_repeating_the_url(text: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse_url(text)
    assert "s3cret" not in str(raised.value)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(tail: str) -> None:
    try:
        url = parse_url("http://" + tail)
    except InvalidRequest:
        return
    assert url.target.isascii()
    assert url.target.isprintable()
    assert " " not in url.target
    assert parse_url(str(url)) == url


def test_host_header_brackets_and_default_ports() -> None:
    assert parse_url("http://[::1]/").host_header == "[::1]"
    assert parse_url("http://[::1]:8080/").host_header == "[::1]:8080"
    assert parse_url("https://a.example:443/").host_header == "a.example"
    assert parse_url("https://a.example:80/").host_header == "a.example:80"


def test_m24_query_values_never_show() -> None:
    url = parse_url("https://a.example/p?Signature=s3cret&token=s3cret&s3cret")
    assert url.redacted() == "https://a.example/p?Signature=…&token=…&…"
    assert "s3cret" not in repr(url)
    assert parse_url("https://a.example/p").redacted() == "https://a.example/p"


def test_of_a_secret_url_and_those_behind_it_only_the_origin_shows() -> None:
    secret = Url("https", "a.example", 444, "/KEY/p?sig=KEY", secret=True)
    behind = resolve_location(secret, "//b.example/KEY/q")
    shown = (secret.redacted(), repr(secret), behind.redacted(), repr(behind))
    assert shown == (
        "https://a.example:444/…", "Url('https://a.example:444/…')", "https://b.example/…", "Url('https://b.example/…')"
    )  # fmt: skip
    assert str(behind) == "https://b.example/KEY/q"
    for location in ("http://b.example/KEY", "/KEY x", "///KEY", "ftp://KEY"):
        with pytest.raises(BadRedirect) as caught:
            resolve_location(secret, location)
        assert "KEY" not in str(caught.value)


@pytest.mark.parametrize(
    ("target", "name"),
    [("/", ""), ("/a/b.mp3", "b.mp3"), ("/a%20b?x=/c", "a b"), ("/a%2Fb", "a/b"), ("/%ff", "\ufffd"), ("/a/", "")],
)
def test_last_segment(target: str, name: str) -> None:
    assert parse_url("http://h" + target).last_segment == name


BASE = Url("https", "a.example", 443, "/x/y?q")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/z", "https://a.example/z"),
        ("z", "https://a.example/x/z"),
        ("?r", "https://a.example/x/y?r"),
        ("../../..", "https://a.example/"),
        ("//b.example/z", "https://b.example/z"),
        ("https://b.example:444/z#f", "https://b.example:444/z"),
        ("HTTPS://b.example", "https://b.example/"),
        ("/\u00c3\u00a4", "https://a.example/%C3%A4"),  # UTF-8 as the head gives it: one character per byte
        ("/a:b", "https://a.example/a:b"),
    ],
)
def test_location(location: str, target: str) -> None:
    assert str(resolve_location(BASE, location)) == target


@pytest.mark.parametrize(
    "location",
    [
        "", "http://a.example/", "ftp://a.example/", "file:///etc/passwd", "data:,x", "javascript:alert(1)", "https:z",
        "https:/z", "///b.example/", "//user@b.example/", "\\\\b.example", "/a b", "/a\tb", "/a\x01b", "//127.1/",
        "//[::1", "//b.example:0/", "\u0101", "//" + "b" * 9000,
    ],
)  # fmt: skip
def test_s30_s31_refused_location(location: str) -> None:
    with pytest.raises(BadRedirect) as caught:
        resolve_location(BASE, location)
    assert "?q" not in str(caught.value)


def test_http_may_become_https() -> None:
    assert resolve_location(parse_url("http://a.example/"), "https://a.example/").scheme == "https"
