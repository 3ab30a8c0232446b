"""``get``: each option has an effect, and every end has its status."""

from __future__ import annotations

import fcntl
import hashlib
import io
import re
import ssl
import stat
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trustme
from blake3 import blake3

from engine.cli import get
from engine.files.filesystem import FileSystem
from engine.store.guest import GuestStore, open_guest
from engine.store.lease import LOCK_NAME
from tests.cli.support import LARGE, SMALL, Said, WatchedOrigin

Cli = Callable[..., Said]


def test_plain_get_names_file_size_and_hash(cli: Cli, origin: WatchedOrigin, root: Path) -> None:
    said = cli("get", origin.url("/small.bin"))

    path = root / "files" / "small.bin"
    assert (said.code, said.err) == (0, "")
    assert said.out.startswith(f"done {path}  2.9 KiB (2.9 KiB in ")
    assert blake3(SMALL).hexdigest()[:16] in said.out
    assert path.read_bytes() == SMALL


def test_json_object_has_every_field(cli: Cli, origin: WatchedOrigin, root: Path) -> None:
    url = origin.url("/large.bin?token=kept-whole")

    told = cli("get", "--json", "--id", "mine", url).object

    seconds = told.pop("seconds")
    assert 0 < seconds < 60
    assert told == {
        "id": "mine",
        "state": "completed",
        "url": url,
        "path": str(root / "files" / "large.bin"),
        "bytes_total": len(LARGE),
        "bytes_fetched": len(LARGE),
        "bytes_resumed": 0,
        "blake3": blake3(LARGE).hexdigest(),
        "attempts": 1,
        "error": None,
    }


def test_asking_again_for_a_complete_file_fetches_nothing(cli: Cli, origin: WatchedOrigin) -> None:
    cli("get", origin.url("/small.bin"))
    asked = len(origin.heads)

    again = cli("get", "--json", origin.url("/small.bin")).object
    plain = cli("get", origin.url("/small.bin"))

    assert (again["bytes_fetched"], again["bytes_resumed"], again["error"]) == (0, len(SMALL), None)
    assert "(was complete already)" in plain.out
    assert len(origin.heads) == asked


def test_several_urls_go_into_a_folder_and_the_same_one_counts_once(
    cli: Cli, origin: WatchedOrigin, tmp_path: Path
) -> None:
    folder = tmp_path / "new folder"
    listed = tmp_path / "urls"
    listed.write_text(f"\ufeff# films\n\n  {origin.url('/large.bin')}  \n{origin.url('/small.bin')}\n")

    said = cli("get", "--json", "--input", listed, "--output", folder, origin.url("/small.bin"))

    assert said.code == 0
    assert sorted(told["path"] for told in said.objects) == [str(folder / "large.bin"), str(folder / "small.bin")]
    assert {path.name for path in folder.iterdir()} == {"large.bin", "small.bin"}


def test_urls_come_from_stdin(cli: Cli, origin: WatchedOrigin, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(origin.url("/small.bin").encode() + b"\n")))

    said = cli("get", "--json", "--input", "-")

    assert (said.code, said.object["url"]) == (0, origin.url("/small.bin"))


def test_a_hundred_urls_are_all_there(cli: Cli, origin: WatchedOrigin, tmp_path: Path) -> None:
    listed = tmp_path / "urls"
    listed.write_text("".join(f"{origin.url('/small.bin')}?n={number % 100}\n" for number in range(150)))

    said = cli("get", "--json", "--durability", "relaxed", "--input", listed)

    assert said.code == 0
    assert len(said.lines) == 100
    assert len({told["path"] for told in said.objects}) == 100


def test_one_failure_among_others_is_status_1(cli: Cli, origin: WatchedOrigin) -> None:
    said = cli("get", origin.url("/gone.bin?key=secret"), origin.url("/small.bin"))

    assert said.code == 1
    assert len(said.lines) == 1
    assert said.err.startswith(f"failed {origin.url('/gone.bin')}?key=…: ")
    assert "404" in said.err
    assert "at fault: the server" in said.err
    assert "secret" not in said.err


def test_json_tells_the_error(cli: Cli, origin: WatchedOrigin) -> None:
    said = cli("get", "--json", origin.url("/gone.bin"))

    assert (said.code, said.object["state"], said.object["path"]) == (1, "failed", None)
    error = said.object["error"]
    assert error.keys() == {"code", "message", "status", "fault", "advice"}
    assert (error["code"], error["status"], error["fault"]) == ("not_found", 404, "server")


def test_existing_output_is_kept_unless_asked(cli: Cli, origin: WatchedOrigin, tmp_path: Path) -> None:
    output = tmp_path / "film.bin"
    output.write_bytes(b"mine")

    kept = cli("get", "--json", "--output", output, origin.url("/small.bin"))
    assert (kept.code, kept.object["error"]["code"]) == (1, "target_exists")
    assert output.read_bytes() == b"mine"

    replaced = cli("get", "--json", "--overwrite", "--output", output, origin.url("/small.bin"))
    assert (replaced.code, replaced.object["path"]) == (0, str(output))
    assert output.read_bytes() == SMALL


def test_expectations_that_hold(cli: Cli, origin: WatchedOrigin) -> None:
    said = cli(
        "get",
        f"--expect=SHA256:{hashlib.sha256(SMALL).hexdigest().upper()}",
        f"--expect=blake3:{blake3(SMALL).hexdigest()}",
        f"--expect-length={len(SMALL)}",
        origin.url("/small.bin"),
    )

    assert (said.code, said.err) == (0, "")


@pytest.mark.parametrize("option", [f"--expect=sha256:{'0' * 64}", "--expect-length=7"])
def test_expectations_that_do_not_hold_publish_nothing(
    cli: Cli, origin: WatchedOrigin, tmp_path: Path, option: str
) -> None:
    output = tmp_path / "out" / "film.bin"

    said = cli("get", "--json", "--output", output, option, origin.url("/small.bin"))

    assert (said.code, said.object["error"]["code"], said.object["path"]) == (1, "integrity", None)
    assert not output.exists()


def test_a_complete_file_that_contradicts_is_status_1(cli: Cli, origin: WatchedOrigin) -> None:
    cli("get", "--id", "mine", origin.url("/small.bin"))

    said = cli("get", "--json", "--id", "mine", "--expect", f"md5:{'0' * 32}", origin.url("/small.bin"))

    assert (said.code, said.object["state"], said.object["error"]["code"]) == (1, "completed", "integrity")


def test_headers_are_sent_and_secret_ones_are_nowhere(cli: Cli, origin: WatchedOrigin, root: Path) -> None:
    arguments = ("--header", "X-Plain: open", "--secret-header", "X-Key: s3cr3t-value", origin.url("/large.bin"))

    said = [cli("get", "--id", "mine", *arguments), cli("list"), cli("show", "mine"), cli("show", "--json", "mine")]
    said += [cli("get", "--id", "mine", *arguments), cli("verify", "--json")]

    assert [one.code for one in said] == [0] * 6
    assert all("X-Plain: open" in head and "X-Key: s3cr3t-value" in head for head in origin.heads)
    assert all("s3cr3t" not in one.out + one.err for one in said)
    stored = [path for path in root.rglob("*") if path.is_file()]
    assert stored
    assert all(b"s3cr3t" not in path.read_bytes() for path in stored)
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in stored if "store" in str(path))


def test_private_authority(cli: Cli, served: dict[str, str], tmp_path: Path) -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    file = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(file)

    with WatchedOrigin(served, tls=context) as origin:
        url = origin.url("/small.bin").replace("http:", "https:")
        refused = cli("get", "--json", url)
        accepted = cli("get", "--json", "--cacert", file, url)

    assert (refused.code, refused.object["error"]["code"]) == (1, "tls")
    assert (accepted.code, accepted.object["bytes_total"]) == (0, len(SMALL))


@pytest.mark.parametrize(("wanted", "opened"), [("1", {1}), ("3", {2, 3})])
def test_connections(cli: Cli, served: dict[str, str], wanted: str, opened: set[int]) -> None:
    with WatchedOrigin(served, bytes_per_s=8e6) as origin:
        said = cli("get", "--connections", wanted, origin.url("/large.bin"))

    assert said.code == 0
    assert origin.connections in opened


@pytest.mark.parametrize(
    ("given", "bytes_s"), [("500K", 500 << 10), ("2.5m", 5 << 19), ("1G", 1 << 30), ("4096", 4096)]
)
def test_a_rate_limit_is_on_record(cli: Cli, origin: WatchedOrigin, given: str, bytes_s: int) -> None:
    said = cli("get", "--id", "mine", "--limit-rate", given, "--limit-rate-all", "64M", origin.url("/small.bin"))

    assert said.code == 0
    assert cli("show", "--json", "mine").object["rate_limit_bytes_s"] == bytes_s


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
def test_durability(cli: Cli, origin: WatchedOrigin, durability: str) -> None:
    cli("get", "--id", "mine", "--durability", durability, origin.url("/small.bin"))

    assert cli("show", "--json", "mine").object["durability"] == durability


def test_a_second_try_is_noted_unless_told_not_to(cli: Cli, origin: WatchedOrigin) -> None:
    origin.busy = 1
    noted = cli("get", origin.url("/small.bin?token=hidden"))
    origin.busy = 1
    silent = cli("get", "--no-progress", "--json", origin.url("/large.bin"))

    assert noted.code == 0
    assert re.match(
        re.escape(f"trying again {origin.url('/small.bin')}?token=…") + r" in 0\.\d s, try 2 of 8 \(backoff\): ",
        noted.err,
    )
    assert "503" in noted.err
    assert (silent.code, silent.err, silent.object["attempts"]) == (0, "", 2)


def test_what_a_path_holds_cannot_reach_the_terminal(cli: Cli, origin: WatchedOrigin, tmp_path: Path) -> None:
    said = cli("get", "--output", f"{tmp_path}/a\x1b[31m\nb", origin.url("/small.bin"))

    assert said.code == 0
    assert said.out.startswith(f"done {tmp_path}/a\\x1b[31m\\nb  ")


@pytest.mark.parametrize("lets_go", [True, False])
def test_a_library_that_another_process_is_about_to_make(
    cli: Cli, root: Path, origin: WatchedOrigin, monkeypatch: pytest.MonkeyPatch, lets_go: bool
) -> None:
    """It has the lease, and there is no store yet: that one is waited for, but not for ever."""
    root.mkdir()
    with (root / LOCK_NAME).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        @contextmanager
        def beside(path: str, files: FileSystem) -> Iterator[GuestStore]:
            try:
                with open_guest(path, files) as guest:
                    yield guest
            finally:
                if lets_go:
                    fcntl.flock(lock, fcntl.LOCK_UN)

        monkeypatch.setattr(get, "open_guest", beside)
        monkeypatch.setattr(get, "MADE_WITHIN_S", 60.0 if lets_go else 0.1)
        said = cli("get", origin.url("/small.bin"))

    assert said.code == (0 if lets_go else 3)
    assert said.out.startswith("done ") if lets_go else "is in use by" in said.err


USAGE = {
    "no verb": [],
    "unknown verb": ["fetch"],
    "unknown option": ["get", "--fast", "http://h/x"],
    "no URL": ["get"],
    "malformed": ["get", "http:/h/x"],
    "other scheme": ["get", "ftp://h/x"],
    "userinfo": ["get", "http://user:pw@h/x"],
    "control character": ["get", "http://h/\x1b[0m"],
    "one bad of two": ["get", "http://127.0.0.1:1/x", "file:///etc/passwd"],
    "header without colon": ["get", "http://h/x", "--header", "nonsense"],
    "header with a line break": ["get", "http://h/x", "--header", "A: b\r\nC: d"],
    "header of the engine": ["get", "http://h/x", "--header", "Range: bytes=0-1"],
    "unknown digest": ["get", "http://h/x", "--expect", "crc9:00"],
    "short digest": ["get", "http://h/x", "--expect", "sha256:00"],
    "digest without name": ["get", "http://h/x", "--expect", "00"],
    "two digests": ["get", "http://h/x", "--expect", f"md5:{'0' * 32}", "--expect", f"md5:{'1' * 32}"],
    "negative length": ["get", "http://h/x", "--expect-length", "-1"],
    "no connection": ["get", "http://h/x", "--connections", "0"],
    "too many connections": ["get", "http://h/x", "--connections", "17"],
    "a rate that is none": ["get", "http://h/x", "--limit-rate", "fast"],
    "an empty rate": ["get", "http://h/x", "--limit-rate", ""],
    "an empty size": ["get", "http://h/x", "--metered-max", ""],
    "empty hours": ["get", "http://h/x", "--hours", ""],
    "a rate too low": ["get", "http://h/x", "--limit-rate", "100"],
    "an endless rate": ["run", "--limit-rate-all", "inf"],
    "unknown durability": ["get", "http://h/x", "--durability", "eternal"],
    "id for two": ["get", "http://h/x", "http://h/y", "--id", "one"],
    "digest for two": ["get", "http://h/x", "http://h/y", "--expect", f"md5:{'0' * 32}"],
    "length for two": ["get", "http://h/x", "http://h/y", "--expect-length", "0"],
    "empty id": ["get", "http://h/x", "--id", ""],
    "empty root": ["list", "--root", ""],
    "empty output": ["get", "http://h/x", "--output", ""],
    "empty output for two": ["get", "http://h/x", "http://h/y", "--output="],
    "empty list name": ["get", "--input", ""],
    "empty authority": ["get", "http://h/x", "--cacert", ""],
    "no such list": ["get", "--input", "/nonexistent/urls"],
    "no such authority": ["get", "https://h/x", "--cacert", "/nonexistent/ca.pem"],
    "not an authority": ["get", "https://h/x", "--cacert", "/dev/null"],
    "file for two": ["get", "http://h/x", "http://h/y", "--output", "/dev/null"],
    "unknown state": ["list", "--state", "asleep"],
    "demo too small": ["demo", "--size", "1"],
}


@pytest.mark.parametrize("case", USAGE)
def test_what_can_never_work_is_status_2_and_starts_nothing(cli: Cli, root: Path, case: str) -> None:
    said = cli(*USAGE[case])

    assert (said.code, said.out) == (2, "")
    assert "offline-engine" in said.err
    assert "\x1b" not in said.err
    assert "Traceback" not in said.err
    assert not root.exists()
