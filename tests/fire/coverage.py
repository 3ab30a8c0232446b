"""Branch coverage of what must not be wrong: ``python -m tests.fire.coverage``.

The status is 1 below 100 %, or when a test fails.

The store, the files, the committer, the recovery and the strict HTTP layer are measured under the tests of their own
floors and those below ``tests/fire`` (about five minutes). ``--missing`` lists what is left of each file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

MODULES = (
    "*/engine/store/*",
    "*/engine/files/*",
    "*/engine/transfer/committer.py",
    "*/engine/control/recovery.py",
    "*/engine/control/recheck.py",
    "*/engine/control/rehash.py",
    "*/engine/control/doubts.py",
    "*/engine/net/head.py",
    "*/engine/net/body.py",
    "*/engine/net/connection.py",
)
# Each in a process of its own: whatever ends one early costs the others nothing.
SUITES = (
    ("tests/store",),
    ("tests/files", "tests/net"),
    ("tests/transfer",),
    ("tests/control",),
    (
        "tests/whole/test_whole_recovery.py",
        "tests/whole/test_whole_reboot.py",
        "tests/whole/test_whole_doubtful.py",
        "tests/whole/test_whole_damaged_records.py",
        "tests/whole/test_whole_crash_steps.py",
    ),
    (
        "tests/whole/test_whole_groups.py",
        "tests/whole/test_whole_damaged_store.py",
        "tests/whole/test_whole_adaptive.py",
    ),
    (
        "tests/whole/test_whole_retry.py",
        "tests/whole/test_whole_regressions.py",
        "tests/whole/test_whole_maintenance.py",
        "tests/whole/test_whole_drips.py",
        "tests/whole/test_whole_quotas.py",
        "tests/whole/test_whole_root.py",
    ),
    ("tests/fire/test_fire_findings.py", "tests/fire/test_fire_laws.py", "tests/fire/test_bad_day.py"),
    (
        "tests/fire/test_fire_gaps_damage.py",
        "tests/fire/test_fire_gaps_environment.py",
        "tests/fire/test_fire_gaps_store.py",
        "tests/fire/test_fire_gaps_moved.py",
        "tests/fire/test_fire_gaps_files.py",
        "tests/fire/test_fire_gaps_net.py",
    ),
)
# Lines that no run can reach, by a pattern, each with its reason. (Typing only: never run.)
UNREACHABLE = {
    r"if TYPE_CHECKING:": "read by type checkers alone",
    r"^\s*\.\.\.$": "the body of a protocol's method",
}
_ROOT = Path(__file__).resolve().parents[2]


def main(arguments: list[str]) -> int:
    """Measure; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.fire.coverage", description=__doc__)
    parser.add_argument("--missing", action="store_true", help="list the lines and branches that were not taken")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="coverage-") as folder:
        settings = Path(folder) / "settings.ini"
        settings.write_text(_settings(folder))
        failed = [suite for suite in SUITES if not _run(suite, settings, folder)]
        _coverage("combine", settings, "--quiet")
        reported = _coverage("report", settings, *(["--show-missing"] if given.missing else []))
    for suite in failed:
        print("tests failed:", *suite)
    return reported or int(bool(failed))


def _settings(folder: str) -> str:
    lines = "\n    ".join
    return f"""[run]
branch = True
parallel = True
data_file = {folder}/data
include =
    {lines(MODULES)}
[report]
fail_under = 100
precision = 2
skip_covered = True
exclude_also =
    {lines(UNREACHABLE)}
"""


def _run(suite: tuple[str, ...], settings: Path, folder: str) -> bool:
    command = [sys.executable, "-m", "coverage", "run", f"--rcfile={settings}", "-m", "pytest", "-q", "--no-header"]
    command += ["-p", "no:cacheprovider", f"--basetemp={folder}/tests", *suite]
    return subprocess.run(command, cwd=_ROOT, env={**os.environ, "PYTHONPATH": str(_ROOT)}, check=False).returncode == 0


def _coverage(what: str, settings: Path, *options: str) -> int:
    command = [sys.executable, "-m", "coverage", what, f"--rcfile={settings}", *options]
    return subprocess.run(command, cwd=_ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
