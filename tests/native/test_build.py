"""What is compiled beyond the extension itself, and what the package says about it."""

import shutil
import subprocess
import sys
from pathlib import Path

from engine import native

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def run(*command: str | Path, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_every_width_of_lanes_agrees_with_the_scalar_code(tmp_path: Path) -> None:
    program = tmp_path / "lanes_check"
    sources = [HERE / "lanes_check.c", ROOT / "ext" / "blake3_kernels.c", ROOT / "ext" / "blake3_tree.c"]
    # -Wno-psabi: the 16-lane source is compiled for machines without 64-byte registers on purpose.
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-Wno-psabi", f"-I{ROOT / 'ext'}"]
    built = run("cc", *flags, *sources, "-o", program)

    assert (built.returncode, built.stderr) == (0, "")

    checked = run(program)

    assert (checked.returncode, checked.stderr) == (0, "")
    assert checked.stdout.splitlines()[-len(native.simd_paths()) :] == [f"path {name}" for name in native.simd_paths()]


def test_the_stub_is_the_truth(tmp_path: Path) -> None:
    # In a folder of their own: stubtest type-checks the whole package otherwise.
    (tmp_path / "engine").mkdir()
    shutil.copy(ROOT / "engine" / "_native.pyi", tmp_path / "engine")
    shutil.copy(str(sys.modules["engine._native"].__file__), tmp_path / "engine")
    options: list[str | Path] = ["--ignore-unused-allowlist", "--allowlist", HERE / "stubtest_allowlist.txt"]
    checked = run(sys.executable, "-m", "mypy.stubtest", "engine._native", *options, folder=tmp_path)

    assert (checked.returncode, checked.stderr) == (0, ""), checked.stdout


def test_a_missing_core_says_how_to_build_it() -> None:
    code = "import sys; sys.modules['engine._native'] = None; import engine.native"
    refused = run(sys.executable, "-c", code)

    assert refused.returncode == 1
    assert "ImportError: the compiled core of offline-engine (engine._native) is missing" in refused.stderr
    assert "setup.py build_ext --inplace" in refused.stderr


def test_another_system_is_refused_by_name() -> None:
    code = "import runpy, setuptools, sys; sys.platform = 'darwin'; runpy.run_path('setup.py')"
    refused = run(sys.executable, "-c", code)

    assert refused.returncode == 1
    assert refused.stderr.startswith("offline-engine builds on Linux on aarch64 and x86_64, not on darwin on ")
