"""``list``, ``show`` and ``verify`` on a library at rest, and what all verbs share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from blake3 import blake3

from engine import __version__
from engine.cli.arguments import DURABILITIES, default_root
from engine.cli.console import OutputLost, escape
from engine.cli.ending import root_cause, status_of
from engine.cli.main import main
from engine.cli.text import progress, rate, shown_url, size
from engine.errors import EngineClosed, InvalidRequest, NoSpace, StoreBusy, StoreUnusable, UnknownEntry
from engine.model.records import Durability
from tests.cli.support import LARGE, SMALL, Said, WatchedOrigin

Cli = Callable[..., Said]


@pytest.fixture
def library(cli: Cli, origin: WatchedOrigin) -> None:
    """One complete entry ``good`` and one failed entry ``bad``."""
    cli("get", "--id", "good", "--expect-length", str(len(LARGE)), origin.url("/large.bin"))
    cli("get", "--id", "bad", "--secret-header", "X-Key: s3cr3t", origin.url("/gone.bin?sig=token"))


@pytest.mark.usefixtures("library")
def test_list_has_a_line_for_each_entry(cli: Cli, root: Path) -> None:
    said = cli("list")

    assert (said.code, said.err) == (0, "")
    good, bad = said.lines
    assert good.split() == ["good", "completed", "12.0", "MiB", str(root / "files" / "large.bin")]
    assert bad.split()[:3] == ["bad", "failed", "(error)"]
    assert bad.endswith("/gone.bin?sig=…")


@pytest.mark.usefixtures("library")
def test_list_of_one_state_as_json(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    good = cli("list", "--json", "--state", "completed").object
    bad = cli("list", "--json", "--state", "failed").object

    assert (good["id"], good["path"], good["error"]) == ("good", str(root / "files" / "large.bin"), None)
    assert (good["bytes_done"], good["bytes_total"]) == (len(LARGE), len(LARGE))
    assert (bad["id"], bad["url"], bad["path"]) == ("bad", origin.url("/gone.bin?sig=token"), None)
    assert bad["error"]["code"] == "not_found"
    assert cli("list", "--state", "paused").out == ""


@pytest.mark.usefixtures("library")
def test_show_tells_state_and_what_would_move_it(cli: Cli) -> None:
    good, bad = cli("show", "good"), cli("show", "bad")

    assert (good.code, bad.code) == (0, 0)
    assert "state       completed since 20" in good.out
    assert "why         It is complete" in good.out
    assert "What would move it: nothing" in good.out
    assert f"holds 0-{len(LARGE)}\n" in good.out
    assert blake3(LARGE).hexdigest() in good.out
    assert "What would move it: `retry`" in bad.out
    assert "secrets     x-key (values are not stored)" in bad.out
    assert "404" in bad.out
    assert "token" not in bad.out


@pytest.mark.usefixtures("library")
def test_show_json_has_every_field_and_what_is_held(cli: Cli, root: Path) -> None:
    told = cli("show", "--json", "good").object

    [part] = told["parts"]
    path = str(root / "files" / "large.bin")
    assert (part["path"], part["final_path"], part["phase"]) == (path, path, "published")
    assert part["held"] == [[0, len(LARGE)]]
    assert (part["length"], part["bytes_done"]) == (len(LARGE), len(LARGE))
    assert part["chunks_done"] == len(LARGE) // part["chunk_bytes"]
    assert (part["generation"], part["representation"]["ranges"]) == (1, True)
    assert told["offline"]["blake3"] == blake3(LARGE).hexdigest()
    assert [attempt["bytes_fetched"] for attempt in told["attempts"]] == [len(LARGE)]
    assert {"state", "state_reason", "sources", "expect", "epoch", "created_at", "last_error"} <= told.keys()


@pytest.mark.usefixtures("library")
def test_verify_finds_a_changed_byte_and_a_lost_file(cli: Cli, root: Path) -> None:
    path = root / "files" / "large.bin"
    valid = cli("verify")
    data = bytearray(path.read_bytes())
    data[5_000_000] ^= 1
    path.write_bytes(data)
    corrupt = cli("verify", "--json")
    path.unlink()
    missing = cli("verify", "good")

    assert (valid.code, valid.out) == (0, f"valid       good  {path}  12.0 MiB checked\n")
    assert (corrupt.code, corrupt.object["health"], corrupt.object["id"]) == (1, "corrupt", "good")
    [[start, end]] = corrupt.object["bad_ranges"]
    assert start <= 5_000_000 < end
    assert missing.code == 1
    assert missing.out.startswith("missing     good  ")


@pytest.mark.usefixtures("library")
def test_an_entry_that_is_not_complete_is_not_valid(cli: Cli) -> None:
    said = cli("verify", "--json", "good", "bad")

    assert (said.code, [told["health"] for told in said.objects]) == (1, ["valid", "incomplete"])


@pytest.mark.usefixtures("library")
@pytest.mark.parametrize("verb", ["show", "verify"])
def test_an_unknown_id_is_status_1(cli: Cli, verb: str) -> None:
    said = cli(verb, "other")

    assert (said.code, said.out) == (1, "")
    assert "there is no entry other (unknown_entry; at fault: what was asked for)" in said.err


def test_a_root_without_a_store_is_an_empty_library(cli: Cli, root: Path) -> None:
    for verb in ("list", "groups"):
        assert cli(verb) == Said(0, "", f"offline-engine: no engine has worked in {root} yet\n")
    shown, verified = cli("show", "any"), cli("verify", "any")

    assert (shown.code, verified.code) == (3, 3)
    assert "store_unusable" in shown.err
    assert "store_unusable" in verified.err
    assert not root.exists()


def test_a_root_that_cannot_be_used_is_status_3(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    root.write_text("a file")

    said = cli("get", origin.url("/small.bin"))

    assert (said.code, said.out) == (3, "")
    assert "store_unusable; at fault: the storage here" in said.err


def test_root_may_follow_the_verb(cli: Cli, tmp_path: Path, origin: WatchedOrigin) -> None:
    other = tmp_path / "other"

    assert cli("get", "--root", other, origin.url("/small.bin")).code == 0
    assert (other / "files" / "small.bin").read_bytes() == SMALL
    assert cli("list").out == ""
    assert len(cli("list", "--root", other).lines) == 1


def test_the_default_root_is_the_users_data_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert default_root() == "/data/offline-engine"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert default_root() == "/home/someone/.local/share/offline-engine"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert default_root() == "/home/someone/.local/share/offline-engine"


def test_a_relative_path_from_a_folder_that_is_gone(
    cli: Cli, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()

    said = cli("get", "http://h/x", "--output", "film")

    assert (said.code, said.out) == (2, "")
    assert "argument --output: the current folder cannot be used: No such file or directory" in said.err
    assert not root.exists()
    assert cli("list").code == 0  # of an absolute root


def test_version_and_help(capfd: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capfd.readouterr().out == f"offline-engine {__version__}\n"
    for verb in ("get", "list", "show", "verify", "demo"):
        assert main([verb, "--help"]) == 0
        assert f"offline-engine {verb}" in capfd.readouterr().out


def test_an_unexpected_error_is_one_line_unless_a_traceback_is_asked_for(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(_arguments: object) -> int:
        raise ZeroDivisionError("a\x1b[0m")

    monkeypatch.setattr("engine.cli.list.run", broken)
    short = cli("list")
    monkeypatch.setenv("OFFLINE_ENGINE_TRACEBACK", "1")
    long = cli("list")

    said = "offline-engine: unexpected ZeroDivisionError: a\\x1b[0m; set OFFLINE_ENGINE_TRACEBACK=1 for more\n"
    assert (short.code, short.err) == (1, said)
    assert "Traceback" in long.err


def test_the_durabilities_to_choose_from_are_those_there_are() -> None:
    assert tuple(durability.value for durability in Durability) == DURABILITIES


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (InvalidRequest("x"), 2),
        (StoreBusy("x", 1), 3),
        (NoSpace("x"), 3),
        (UnknownEntry("x"), 1),
        (BrokenPipeError(), 141),
        (OutputLost("x"), 1),
        (KeyboardInterrupt(), 130),
        (ZeroDivisionError(), None),
    ],
)
def test_status_of_an_error(error: BaseException, expected: int | None) -> None:
    assert status_of(error) == expected


def test_the_cause_in_a_group_is_the_one_that_brought_the_others() -> None:
    cause = StoreUnusable("the disk is gone")
    group = BaseExceptionGroup("", [EngineClosed("x"), BaseExceptionGroup("", [cause])])

    assert root_cause(group) is cause
    bug = ZeroDivisionError()
    assert root_cause(BaseExceptionGroup("", [EngineClosed("x"), bug])) is bug


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("größe 字.flac", "größe 字.flac"),
        ("a\x1b[2Jb", "a\\x1b[2Jb"),
        ("a\r\nb\t\0", "a\\r\\nb\\t\\x00"),
        ("\u202egpj", "\\u202egpj"),
        ("\x9b31m", "\\x9b31m"),
        ("\udcff", "\\udcff"),
        ("a\u2028b", "a\\u2028b"),
    ],
)
def test_escape(text: str, expected: str) -> None:
    assert escape(text) == expected


def test_amounts() -> None:
    amounts = [size(None), size(0), size(1023), size(1024), size(1536 * 1024), size(2**60)]
    assert amounts == ["?", "0 B", "1023 B", "1.0 KiB", "1.5 MiB", "1024.0 PiB"]
    assert (rate(2048, 2.0), rate(1, 0.0)) == ("1.0 KiB/s", "-")
    assert (progress(1, None), progress(1, 2)) == ("1 B of ?", "1 B of 2 B, 50%")
    assert shown_url("http://h/p?a=1&b=2#f") == "http://h/p?a=…&b=…"
    assert shown_url("http://u:p@h\x1b/?key") == "http://u:p@h\\x1b/"
