"""``gc`` and ``verify`` while another process runs the engine: that one does it, this one tells."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme

from engine.store.bell import BELL_NAME
from tests.cli.support import LARGE, SMALL, Said, WatchedOrigin, ended, started, until

Cli = Callable[..., Said]


@pytest.fixture
def beside(cli: Cli, root: Path, origin: WatchedOrigin) -> Iterator[None]:
    """An engine of another process on a library with two finished files, ``big`` and ``small``."""
    for name, path in (("big", "/large.bin"), ("small", "/small.bin")):
        assert cli("get", "--id", name, origin.url(path)).code == 0
    with started("--root", root, "run", "--forever", "--no-progress") as process:
        until(lambda: (root / BELL_NAME).exists() or process.poll() is not None)
        assert process.poll() is None
        yield
        assert process.poll() is None, "it is there still"
        process.terminate()
        ended(process)


def spoil(path: Path) -> None:
    with path.open("r+b") as file:
        file.seek(5_000_000)
        file.write(b"rotten")


@pytest.mark.usefixtures("beside")
def test_gc_is_done_by_the_engine_that_runs(cli: Cli, root: Path) -> None:
    orphan = root / "files" / ".oe-0123456789abcdef-1.part"
    orphan.write_bytes(b"x" * 4096)
    old = time.time() - 86_400
    os.utime(orphan, (old, old))

    would = cli("gc", "--dry-run")
    assert orphan.exists()
    done = cli("gc", "--json")

    assert (would.code, would.err, would.lines[-1]) == (0, "", "4.0 KiB would be reclaimed")
    assert str(orphan) in would.out
    assert (done.code, done.object["files_removed"], done.object["bytes_reclaimed"]) == (0, 1, 4096)
    assert not orphan.exists()
    assert cli("health", "--json").object["bytes_reclaimed"] == 4096


@pytest.mark.usefixtures("beside")
def test_files_are_read_and_mended_by_the_engine_that_runs(cli: Cli, root: Path, origin: WatchedOrigin) -> None:
    fine = cli("verify")
    assert (fine.code, fine.err) == (0, "")
    assert [line.split()[:2] for line in fine.lines] == [["valid", "big"], ["valid", "small"]]
    spoil(root / "files" / "large.bin")

    bad = cli("verify", "big")
    assert bad.code == 1
    assert bad.lines[0].startswith("corrupt     big")
    assert "--overwrite" in bad.lines[1]
    before = len(origin.heads)
    mended = cli("verify", "--repair")
    assert (mended.code, mended.err) == (0, "")
    assert "repaired: 256.0 KiB fetched" in mended.out
    assert len(origin.heads) > before
    assert (root / "files" / "large.bin").read_bytes() == LARGE
    (root / "files" / "small.bin").unlink()
    as_json = cli("verify", "--repair", "--json", "small").object
    assert (as_json["health"], as_json["repair"], as_json["repaired"]) == ("missing", "whole", True)
    assert (root / "files" / "small.bin").read_bytes() == SMALL


@pytest.mark.usefixtures("beside")
def test_what_cannot_be_asked_of_another_process_is_refused(
    cli: Cli, root: Path, origin: WatchedOrigin, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    unknown = cli("verify", "nobody")
    assert (unknown.code, "there is no entry nobody" in unknown.err) == (1, True)
    trusting = cli("verify", "--cacert", tmp_path / "ca.pem")
    assert (trusting.code, "--cacert cannot be given to an engine that runs already" in trusting.err) == (2, True)
    spoil(root / "files" / "large.bin")
    origin._files.clear()
    lost = cli("verify", "--repair", "big")
    assert lost.code == 1
    assert "not repaired: big is failed" in lost.out


@pytest.mark.usefixtures("beside")
def test_looking_needs_no_engine_of_its_own(cli: Cli) -> None:
    listed = cli("list", "--json")
    assert [(one["id"], one["state"]) for one in listed.objects] == [("big", "completed"), ("small", "completed")]
    assert cli("show", "big").code == 0
    assert cli("health").lines[0].startswith("entries         2: 2 completed")
    assert (cli("groups").code, cli("groups").out) == (0, "")
