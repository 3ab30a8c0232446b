"""What ``verify`` says about healing really heals."""

from __future__ import annotations

import os
import shlex
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.cli.main import main
from engine.store.bell import BELL_NAME
from tests.cli.support import LARGE, Said, WatchedOrigin, started, until

Cli = Callable[..., Said]


def flip(path: Path) -> None:
    """Rot: one byte is another, and nothing shows it from outside."""
    info = path.stat()
    data = bytearray(path.read_bytes())
    data[5_000_000] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def edit(path: Path) -> None:
    path.write_bytes(b"something else")


DAMAGES: dict[str, Callable[[Path], None]] = {"rot": flip, "edit": edit, "loss": Path.unlink}
ASKED: dict[str, list[str]] = {
    "plainly": [],
    "in many words": ["--id", "it's mine", "--header", "X-A: 1", "--expect-length", str(len(LARGE)), "--connections=2"],
}


@pytest.mark.parametrize("to_output", [None, "named film.bin", "folder/"])
@pytest.mark.parametrize("asked", ASKED)
@pytest.mark.parametrize("damage", DAMAGES)
def test_the_command_that_is_shown_heals(
    cli: Cli,
    origin: WatchedOrigin,
    tmp_path: Path,
    damage: str,
    asked: str,
    to_output: str | None,
    capfd: pytest.CaptureFixture[str],
) -> None:
    output = [] if to_output is None else ["--output", f"{tmp_path}/{to_output}"]
    got = cli("get", "--json", *ASKED[asked], *output, origin.url("/large.bin"))
    path = Path(got.object["path"])
    DAMAGES[damage](path)

    told = cli("verify", "--json").object
    said = cli("verify")

    assert (told["health"] == "valid", said.code, len(said.lines)) == (False, 1, 2)
    shown = shlex.split(said.lines[1].partition(": ")[2])
    assert shown == told["heal"]
    assert ("--overwrite" in shown) == (damage != "loss")
    assert shown[0] == "offline-engine"
    healed = Said(main(shown[1:]), *capfd.readouterr())
    assert (healed.code, healed.err) == (0, "")
    assert path.read_bytes() == LARGE
    assert (cli("verify").code, len(cli("list").lines)) == (0, 1)


@pytest.mark.parametrize("damage", ["rot", "loss"])
def test_a_url_with_secrets_is_not_shown_and_what_is_shown_heals(
    cli: Cli, origin: WatchedOrigin, damage: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is hidden of its URL would be missing in a ``get``, and would then be on record in its place."""
    got = cli("get", "--json", "--id", "mine", origin.url("/large.bin?sig=s3cret"))
    path = Path(got.object["path"])
    DAMAGES[damage](path)
    said = cli("verify")

    assert "s3cret" not in said.out
    shown = shlex.split(said.lines[1].partition(": ")[2])
    assert shown[-3:] == ["verify", "--repair", "mine"]
    healed = Said(main(shown[1:]), *capfd.readouterr())
    assert (healed.code, path.read_bytes()) == (0, LARGE)
    assert cli("list", "--json").object["url"].endswith("?sig=s3cret") or "s3cret" not in healed.out


def test_an_unfinished_entry_is_finished_by_what_is_shown(
    cli: Cli, origin: WatchedOrigin, served: dict[str, str], capfd: pytest.CaptureFixture[str]
) -> None:
    large = served.pop("/large.bin")
    origin._files.pop("/large.bin")
    failed = cli("get", "--json", origin.url("/large.bin")).object
    origin._files["/large.bin"] = large

    told = cli("verify", "--json", failed["id"]).object

    assert (told["health"], "--overwrite" in told["heal"]) == ("incomplete", False)
    assert main(told["heal"][1:]) == 0
    capfd.readouterr()
    assert cli("verify", "--json", failed["id"]).object["health"] == "valid"


def test_secrets_are_not_shown_and_a_valid_file_needs_nothing(cli: Cli, origin: WatchedOrigin, root: Path) -> None:
    cli("get", "--secret-header", "X-Key: s3cr3t", "--id", "mine", origin.url("/large.bin?token=abc"))
    valid = cli("verify", "--json").object
    (root / "files" / "large.bin").unlink()
    said = cli("verify")

    assert (valid["health"], valid["heal"]) == ("valid", None)
    assert "--secret-header 'x-key: …'" in said.out
    assert "token=…" in said.out
    assert "abc" not in said.out
    assert "s3cr3t" not in said.out


def test_what_a_failed_get_knows_of_the_size_is_told(cli: Cli, served: dict[str, str]) -> None:
    class Cut(WatchedOrigin):
        """Sends a little of each answer, then hangs up; in the end there is nothing any more."""

        def answer(self, connection: socket.socket, head: str) -> None:
            if len(self.heads) > 1:
                connection.sendall(b"HTTP/1.1 410 Gone\r\nContent-Length: 0\r\n\r\n")
                return
            self.heads.append(head)
            connection.sendall(
                b'HTTP/1.1 206 Part\r\nETag: "a"\r\nContent-Range: bytes 0-4194303/12582912\r\n'
                b"Content-Length: 4194304\r\n\r\n" + LARGE[:2_000_000]
            )
            connection.shutdown(socket.SHUT_RDWR)

    with Cut(served) as origin:
        told = cli("get", "--json", "--no-progress", origin.url("/large.bin")).object

    assert (told["state"], told["path"], told["bytes_total"]) == ("failed", None, len(LARGE))


def test_a_file_that_could_not_be_repaired_is_not_forgotten(cli: Cli, origin: WatchedOrigin, root: Path) -> None:
    cli("get", "--id", "mine", origin.url("/small.bin"))
    os.truncate(root / "files" / "small.bin", 100)
    origin.forget("/small.bin")
    assert cli("verify", "--repair").code == 1

    again = cli("verify", "--json")

    assert (again.code, again.object["id"], again.object["health"]) == (1, "mine", "incomplete")
    with started("--root", root, "run", "--forever"):
        until((root / BELL_NAME).exists)
        beside = cli("verify", "--json")
    assert (beside.code, beside.object["health"]) == (1, "incomplete")


def test_a_root_that_has_no_library_is_not_healthy(cli: Cli, root: Path) -> None:
    """It may be misspelt."""
    said = cli("verify")

    assert said.code == 3
    assert f"there is no store in {root}" in said.err
