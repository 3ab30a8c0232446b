"""Wrong variants of the engine (T14): each breaks one rule, and a named test must notice.

    python -m tests.fire.mutants [NAME]…          all of them, or these; two at a time
    python -m tests.fire.mutants --share 0.33 --seed 1

A mutant is a patch that :mod:`tests.fire.mutants_plugin` puts in place in a pytest process of its own, before the named
test runs there. The test has to fail; one that passes, or cannot even be collected, is a finding.
"""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Final, NamedTuple

import pytest

from tests.fire import mutants_patches as patches
from tests.fire.options import ended, shared

VARIABLE: Final = "ENGINE_MUTANT"
REPOSITORY: Final = Path(__file__).resolve().parents[2]
AT_ONCE: Final = 2
TESTS_FAILED: Final = 1  # pytest's exit status; others mean that it did not come to testing


class Mutant(NamedTuple):
    """``apply`` breaks the engine, ``killer`` is the test that has to notice."""

    apply: Callable[[pytest.MonkeyPatch], None]
    killer: str


_COMMITS = "tests/transfer/test_transfer_committer.py::"
_REBOOT = "tests/whole/test_whole_reboot.py::"
_NEW = "tests/files/test_files_new_parts.py::"
_OPENING = "tests/store/test_store_opening.py::"
_SMALL = (
    "tests/whole/test_whole_many.py::"
    "test_a_small_file_is_synced_before_it_has_its_name_and_its_name_before_it_is_complete"
)
_STALE = "tests/store/test_store_commits.py::test_law_3_commits_of_another_epoch_generation_or_entry_are_dropped"
_DEATHS = "tests/fire/test_bad_day.py::test_a_death_before_every_step"
_L9 = "tests/store/test_store_crashes.py::test_l9_a_commit_that_reports_an_error_is_looked_up_never_assumed"
MUTANTS: Final[dict[str, Mutant]] = {
    "bit-before-sync": Mutant(patches.bit_before_sync, _REBOOT + "test_no_bit_before_its_bytes_are_synced"),
    "never-synced": Mutant(patches.never_synced, _COMMITS + "test_synced_then_committed_then_told"),
    "told-before-commit": Mutant(
        patches.told_before_commit, _COMMITS + "test_a_failed_commit_drops_the_whole_group"
    ),
    "fsync-retried": Mutant(
        patches.fsync_retried, _COMMITS + "test_a_failed_sync_drops_its_file_alone"
    ),
    "folder-not-synced": Mutant(patches.folder_not_synced, _SMALL),
    "small-file-not-synced": Mutant(patches.small_file_not_synced, _SMALL),
    "small-file-not-final-on-record": Mutant(patches.small_file_not_final_on_record, _DEATHS + "[one-chunk]"),
    "name-not-recorded": Mutant(patches.name_not_recorded, _DEATHS + "[one-chunk]"),
    "validator-not-checked": Mutant(
        patches.validator_not_checked, "tests/whole/test_whole_generations.py::test_changed_between_two_spans"
    ),
    "no-if-range": Mutant(
        patches.no_if_range, "tests/whole/test_whole_identity.py::"
        "test_if_range_is_sent_once_and_only_with_a_strong_etag"
    ),
    "any-range-taken": Mutant(patches.any_range_taken, "tests/hostile/test_hostile_rows.py"),
    "header-kept-on-redirect": Mutant(
        patches.header_kept_on_redirect,
        "tests/net/test_client.py::test_s33_callers_fields_never_cross_an_origin_nor_come_back",
    ),
    "dirty-connection-reused": Mutant(
        patches.dirty_connection_reused, "tests/net/test_client.py::test_s39_only_a_clean_connection_is_reused"
    ),
    "epoch-ignored": Mutant(patches.epoch_ignored, _STALE),
    "generation-ignored": Mutant(patches.generation_ignored, _STALE),
    "relaxed-trusted-after-reboot": Mutant(
        patches.relaxed_trusted, _REBOOT + "test_a_finished_relaxed_file_that_was_not_written_back"
    ),
    "suspects-ignored": Mutant(patches.suspects_ignored, _REBOOT + "test_what_is_not_on_the_disk_is_fetched_again"),
    "same-boot-assumed": Mutant(patches.same_boot_assumed, _REBOOT + "test_what_is_not_on_the_disk_is_fetched_again"),
    "tombstone-dropped-first": Mutant(patches.tombstone_dropped_first, _DEATHS + "[remove]"),
    "files-before-record": Mutant(patches.files_before_record, _DEATHS + "[remove]"),
    "published-over": Mutant(
        patches.published_over, "tests/files/test_files_publishing.py::test_publishing_onto_something"
    ),
    "not-exclusive": Mutant(patches.not_exclusive, _NEW + "test_a_trap_planted_at_the_last_moment"),
    "links-followed": Mutant(
        patches.links_followed, "tests/files/test_files_old_parts.py::test_a_trap_in_the_place_of_an_old_part"
    ),
    "metasync-off": Mutant(
        patches.metasync_off, _OPENING + "test_l14_l16_the_environment_cannot_change_the_format_or_switches"
    ),
    "commit-error-is-success": Mutant(patches.commit_error_taken_for_success, _L9),
    "commit-error-is-failure": Mutant(patches.commit_error_taken_for_failure, _L9),
    "checksums-ignored": Mutant(
        patches.checksums_ignored, "tests/store/test_store_damage.py::test_l10_every_flipped_bit_is_found"
    ),
    "lease-not-exclusive": Mutant(
        patches.lease_not_exclusive, _OPENING + "test_l7_a_second_opener_is_told_the_owners_pid"
    ),
    "length-not-checked": Mutant(
        partial(patches.unchecked, lengths=False, digests=True),
        "tests/whole/test_whole_recovery.py::"
        "test_law_2_what_is_expected_by_now_is_checked_before_publishing_is_finished",
    ),
    "digest-not-checked": Mutant(
        partial(patches.unchecked, lengths=True, digests=False),
        "tests/whole/test_whole_again.py::test_a_wrong_digest_publishes_nothing",
    ),
    "write-error-ignored": Mutant(
        patches.written_or_not, "tests/fire/test_bad_day.py::test_a_chunk_that_could_not_be_written_is_not_claimed"
    ),
    "publishing-not-finished": Mutant(
        patches.publishing_not_finished,
        "tests/whole/test_whole_crash_steps.py::test_finalising_is_finished_without_the_server",
    ),
    "another-file-believed": Mutant(
        patches.another_file_believed, "tests/whole/test_whole_disk.py::test_the_part_was_replaced_by_something_else"
    ),
}  # fmt: skip


def run(name: str | None, killer: str) -> tuple[int, str]:
    """pytest's exit status for the test with this mutant (None: without any), and what it printed."""
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", "-p", "tests.fire.mutants_plugin"]
    environ = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if name is not None:
        environ[VARIABLE] = name
    done = subprocess.run(
        [*command, killer], cwd=REPOSITORY, env=environ, capture_output=True, text=True, timeout=300, check=False
    )
    return done.returncode, done.stdout + done.stderr


def verdict(name: str) -> str:
    """Empty when the mutant was killed; otherwise what came out instead."""
    status, output = run(name, MUTANTS[name].killer)
    if status == TESTS_FAILED:
        return ""
    what = "lived" if status == 0 else f"was not tested (pytest ended with {status})"
    return f"{name} {what}: {MUTANTS[name].killer}\n{output[-600:] if status else ''}"


def verdicts(names: Sequence[str]) -> list[str]:
    """What there is to tell of those that were not killed."""
    with ThreadPoolExecutor(AT_ONCE) as pool:
        return [line for line in pool.map(verdict, names) if line]


def main() -> int:
    """Run mutants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(MUTANTS)}; all without one")
    parser.add_argument("--share", type=shared, default=1.0, help="of all, by chance (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if unknown := set(options.names) - set(MUTANTS):
        parser.error(f"there is no mutant {min(unknown)}")
    wanted = max(1, round(options.share * len(MUTANTS)))
    names = options.names or random.Random(options.seed).sample(list(MUTANTS), wanted)
    begun = time.monotonic()
    lines = verdicts(names)
    print(
        *lines, f"{len(names) - len(lines)} of {len(names)} mutants killed, {time.monotonic() - begun:.0f} s", sep="\n"
    )
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(ended(main))
