"""``gc`` and ``verify --repair``."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.support import LARGE, Said, WatchedOrigin

Cli = Callable[..., Said]


@pytest.fixture
def orphan(cli: Cli, root: Path, origin: WatchedOrigin) -> Path:
    """Beside a complete entry an unfinished file that no record knows, old enough to go."""
    cli("get", "--id", "good", origin.url("/large.bin"))
    path = root / "files" / ".oe-0123456789abcdef-1.part"
    path.write_bytes(b"x" * 4096)
    old = time.time() - 86_400
    os.utime(path, (old, old))
    return path


def test_gc_tells_first_and_then_removes(cli: Cli, root: Path, orphan: Path) -> None:
    would = cli("gc", "--dry-run")
    assert orphan.exists()
    done = cli("gc", "--json")
    again = cli("gc")

    assert (would.code, would.err) == (0, "")
    assert "would_remove  orphan_part" in would.out
    assert would.lines[-1] == "4.0 KiB would be reclaimed"
    assert (done.code, done.object["files_removed"], done.object["bytes_reclaimed"]) == (0, 1, 4096)
    assert not orphan.exists()
    assert (again.code, again.lines[-1]) == (0, "0 B reclaimed: 0 files and 0 entries removed")
    assert (root / "files" / "large.bin").read_bytes() == LARGE


def test_gc_without_a_store(cli: Cli, root: Path) -> None:
    said = cli("gc")

    assert (said.code, said.out) == (3, "")
    assert f"there is no store in {root}" in said.err
    assert not root.exists()


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"rotten")


def test_verify_repairs_what_is_bad_and_fetches_no_more(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    cli("get", "--id", "good", origin.url("/large.bin"))
    path = root / "files" / "large.bin"
    spoil(path)

    said = cli("verify", "--repair")

    assert said.code == 0
    assert said.lines[0].startswith("corrupt     good")
    assert "repaired: " in said.lines[1]
    assert path.read_bytes() == LARGE
    assert cli("verify").code == 0
    spoil(path)
    as_json = cli("verify", "--repair", "--json").object
    assert (as_json["repaired"], as_json["repair"], as_json["heal"]) == (True, "chunks", None)


def test_what_cannot_be_repaired_is_told(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    cli("get", "--id", "good", origin.url("/large.bin"))
    spoil(root / "files" / "large.bin")
    origin._files.clear()

    said = cli("verify", "--repair", "good")

    assert said.code == 1
    assert "not repaired: good is failed" in said.out
    assert "404" in said.out
