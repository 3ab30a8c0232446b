"""The source itself: linted, formatted and typed, and the stub says what the compiled module does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

CHECKS = {
    "lint": ["ruff", "check", "."],
    "format": ["ruff", "format", "--check", "."],
    "types": ["mypy"],
    "stub": ["mypy.stubtest", "engine._native", "--allowlist", "tests/native/stubtest_allowlist.txt"],
}


@pytest.mark.parametrize("check", CHECKS)
def test_source_passes(check: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *CHECKS[check]], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_no_generated_or_binary_file_is_tracked() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()

    assert [name for name in tracked if name.endswith((".so", ".pyc", "_native.c"))] == []


def test_top_level_holds_only_what_the_design_names() -> None:
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    top = {name.split("/")[0] for name in tracked}
    allowed = {
        "pyproject.toml",
        "setup.py",
        "engine",
        "ext",
        "tests",
        "benchmarks",
        "README.md",
        "docs",
        "CHANGELOG.md",
    }

    assert {name for name in top - allowed if not name.startswith(".")} == {"LICENSE"}
