"""Lists of URLs: what is wrong is named with its place, nothing is started, and long ones work."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli.url_list import LINE_BYTES_MAX
from tests.cli.support import SMALL, Said, WatchedOrigin

Cli = Callable[..., Said]

BAD_LISTS = {
    "bad URL": (b"# mine\n\nhttp://127.0.0.1:1/x\nftp://h/y?token=secret\n", ":4: ftp://h/y: a URL must begin with"),
    "one bad URL alone": (b"nonsense", ":1: nonsense: a URL must begin with http:// or https://"),
    "options of another program": (b"http://127.0.0.1:1/x\n  out=film.bin\n", ":2: out=film.bin: a URL must begin"),
    "escape sequence": (b"http://h/\x1b[31m\n", ":1: http://h/\\x1b[31m: the URL holds '\\x1b'"),
    "binary": (b"\x7fELF\x02\x01\x01\0\0\0", ":1: the line holds a zero byte"),
    "UTF-16": ("http://h/x\n".encode("utf-16"), ":1: the line holds a zero byte"),
    "Latin-1": (b"http://h/a\nhttp://h/gr\xfc\xdfe\n", ":2: the line is not UTF-8"),
    "huge line": (b"http://h/x\n" + b"x" * (LINE_BYTES_MAX + 1), ":2: the line is longer than 16384 bytes"),
    "long URL": (b"http://h/" + b"x" * 9000, "the URL is longer than 8192 bytes"),
    "empty": (b"# none today\n", "holds none"),
}


@pytest.mark.parametrize("case", BAD_LISTS)
def test_a_bad_list_is_one_clear_line(cli: Cli, root: Path, tmp_path: Path, case: str) -> None:
    content, expected = BAD_LISTS[case]
    listed = tmp_path / "urls.txt"
    listed.write_bytes(content)

    said = cli("get", "--input", listed)

    assert (said.code, said.out) == (2, "")
    assert str(listed) in said.err
    assert expected in said.err
    assert "secret" not in said.err
    assert "\x1b" not in said.err
    assert len(said.err.splitlines()) == 1
    assert not root.exists()


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("/nonexistent/urls", "No such file or directory"),
        ("/proc", "Is a directory"),
        ("/proc/self/mem", "Input/output error"),
        ("/dev/zero", "longer than"),
    ],
)
def test_a_file_that_is_no_list(cli: Cli, root: Path, path: str, reason: str) -> None:
    said = cli("get", "--input", path)

    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1)
    assert path in said.err
    assert reason in said.err
    assert not root.exists()


def test_stdin_that_is_closed_or_holds_a_bad_url(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\nhttp:/h\n")))
    bad = cli("get", "--input", "-")
    monkeypatch.setattr(sys, "stdin", None)
    closed = cli("get", "--input", "-")

    assert (bad.code, closed.code) == (2, 2)
    assert "stdin:2: http:/h: a URL must begin" in bad.err
    assert "stdin is closed" in closed.err


def test_a_bad_url_among_arguments_is_told_from_those_of_the_list(cli: Cli, root: Path, tmp_path: Path) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text("http://127.0.0.1:1/x\n")

    said = cli("get", "--input", listed, "gopher://h/")

    assert said.code == 2
    assert "the command line: gopher://h/: a URL must begin" in said.err
    assert not root.exists()


def test_windows_line_ends_and_a_missing_last_one(cli: Cli, origin: WatchedOrigin, tmp_path: Path) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_bytes(f"\ufeff{origin.url('/small.bin')}\r\n# more\r\n{origin.url('/large.bin')}".encode())

    said = cli("get", "--json", "--input", listed)

    assert (said.code, len(said.lines)) == (0, 2)


def test_a_thousand_urls(cli: Cli, origin: WatchedOrigin, tmp_path: Path) -> None:
    listed = tmp_path / "urls.txt"
    listed.write_text("".join(f"{origin.url('/small.bin')}?n={number}\n" for number in [*range(1000), *range(500)]))

    said = cli("get", "--json", "--durability", "relaxed", "--input", listed)

    assert said.code == 0
    assert len({told["path"] for told in said.objects}) == len(said.lines) == 1000
    assert {told["bytes_total"] for told in said.objects} == {len(SMALL)}


def test_one_url_in_several_spellings_counts_once(cli: Cli, origin: WatchedOrigin) -> None:
    url = origin.url("/small.bin")

    said = cli("get", "--json", url, url + "#part", url.replace("http:", "HTTP:"), url)

    assert (said.code, said.object["url"]) == (0, url)
    assert len(cli("list").lines) == 1
