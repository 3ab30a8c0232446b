"""Power cuts, the short tier: what ``python -m tests.fire.power`` and ``tests.fire.shutdown`` do at length.

Fault catalogue C14, C15, C16, D23; contract P1-P6. Needs root. Both print their seed; what was wrong is kept, and can
be judged again.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.fire.fuse_disk import FLUSH, WRITE, Record
from tests.fire.power_images import MODES, SECTOR, Case, Images, cases
from tests.fire.power_judge import Judge
from tests.fire.power_mutants import MUTANTS
from tests.fire.power_scenarios import SCENARIOS
from tests.fire.power_world import Ack
from tests.store.helpers import commit, entry, open_store, part

REPOSITORY = Path(__file__).resolve().parents[2]
SHORT = ("bit-before-sync", "no-folder-sync", "reboot-unnoticed")  # the others are caught in the long tier
DISK = bytes(16 * SECTOR)


def run(harness: str, *options: str) -> dict[str, Any]:
    """The harness's report."""
    command = [sys.executable, "-m", f"tests.fire.{harness}", *options]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    report: dict[str, Any] = json.loads(done.stdout)
    print(done.stdout, done.stderr)
    return report


@pytest.mark.timeout(300)
def test_no_power_cut_makes_the_engine_lie() -> None:
    """As many images as there is time for, of every scenario and every kind."""
    report = run("power", "--images", "1000", "--seconds", "30")
    assert report["wrong"] == 0, report["shown"]
    assert set(report["by_scenario"]) == set(SCENARIOS)
    assert min(report["by_scenario"].values()) >= 20
    assert min(report["by_mode"].values()) > 0


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "mutant", [pytest.param(name, marks=[] if name in SHORT else [pytest.mark.long]) for name in MUTANTS]
)
def test_the_harness_catches(mutant: str) -> None:
    """A wrong variant of the protocol is found out."""
    report = run("power", "--images", "1200", "--seconds", "120", "--mutant", mutant)
    assert report["wrong"] > 0


@pytest.mark.timeout(300)
def test_power_cuts_of_a_whole_engine_under_load() -> None:
    """ext4 is shut down under it, again and again on the same disk."""
    report = run("shutdown", "--cycles", "6")
    assert report["wrong"] == 0, report["shown"]
    assert report["acks"] > 0
    assert sum(report["entries_found"].values()) > 0


@pytest.mark.long
@pytest.mark.timeout(600)
def test_shutting_down_catches_names_that_are_not_durable() -> None:
    """The second harness sees it too, though its moments are few."""
    report = run("shutdown", "--cycles", "60", "--mutant", "no-folder-sync")
    assert report["wrong"] > 0


def write(sector: int, byte: int, sectors: int = 1) -> Record:
    return Record(WRITE, sector * SECTOR, bytes([byte]) * (sectors * SECTOR), 0)


def image_of(log: list[Record], case: Case, path: Path) -> bytes:
    path.write_bytes(DISK)
    fd = os.open(path, os.O_RDWR)
    try:
        Images(DISK, log).write(fd, case)
    finally:
        os.close(fd)
    return path.read_bytes()


LOG = [write(5, 1), Record(FLUSH, 0, b"", 1), write(6, 2), write(8, 3, 8), Record(FLUSH, 0, b"", 2), write(5, 4)]


@pytest.mark.parametrize(
    ("place", "mode", "expected"),
    [
        (1, "none", {}),
        (1, "all", {5: 1}),
        (2, "none", {5: 1}),
        (4, "none", {5: 1}),
        (4, "all", {5: 1, 6: 2} | dict.fromkeys(range(8, 16), 3)),
        (5, "none", {5: 1}),  # the flush covers two requests, of which one is the flush before it
        (6, "all", {5: 4, 6: 2} | dict.fromkeys(range(8, 16), 3)),
    ],
)
def test_an_image_is_what_was_flushed_and_what_the_case_says(
    tmp_path: Path, place: int, mode: str, expected: dict[int, int]
) -> None:
    image = image_of(LOG, Case(place, mode, 0), tmp_path / "image")
    assert {at // SECTOR: image[at] for at in range(0, len(image), SECTOR) if image[at]} == expected


def test_a_torn_write_is_old_or_new_in_each_sector(tmp_path: Path) -> None:
    kinds = set()
    for seed in range(60):
        image = image_of(LOG, Case(4, "torn", seed), tmp_path / "image")
        assert image[5 * SECTOR] == 1, "a write that was flushed is lost"
        sectors = [image[at : at + SECTOR] for at in range(8 * SECTOR, 16 * SECTOR, SECTOR)]
        assert all(sector in {bytes(SECTOR), b"\x03" * SECTOR} for sector in sectors)
        kinds.add(len(set(sectors)) > 1)
    assert kinds == {False, True}


def test_cases_are_seeded_and_of_every_kind() -> None:
    found = cases(LOG, 0, 100, random.Random(3))
    assert found == cases(LOG, 0, 100, random.Random(3))
    assert found == sorted(found)
    assert len(found) == 100
    assert {case.mode for case in found} == set(MODES)
    assert len(cases(LOG, 0, 4, random.Random(3))) == 4


@pytest.mark.parametrize(("count", "held", "wrong"), [
    (4, 5, []),
    (4, 4, ["a holds 4194304 bytes, and was told to hold 5242880"]),
    (5, 5, []),
    (5, 0, []),  # the bytes of an older version went, and that is told next
    (6, 0, []),
])  # fmt: skip
def test_what_was_told_is_held_until_it_is_told_to_have_gone(
    tmp_path: Path, count: int, held: int, wrong: list[str]
) -> None:
    told = [(3, 5), (6, 0)] if count > 4 else [(3, 5), (6, 6)]
    acks = [Ack(at, "progress", "a", epoch=1, generation=1, bytes_done=chunks << 20) for at, chunks in told]
    with closing(open_store(str(tmp_path / "lib"))) as store:
        added = store.add(entry("a"))
        store.put_part("a", 1, part(generation=1))
        store.commit_chunks([commit("a", range(held))])

        assert list(Judge(tmp_path, acks)._progress_told(count, store, added)) == wrong
