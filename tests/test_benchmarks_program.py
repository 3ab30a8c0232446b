"""The harness as a program: what it refuses first, what it keeps when something fails, what it leaves behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from benchmarks import __main__ as harness
from benchmarks.ballast import LEFT_BYTES, NoMemory, ballast, ballast_bytes
from benchmarks.bench import KIB, MIB, Bench
from benchmarks.origin import serving
from benchmarks.report import Report
from benchmarks.workspace import NoRoom, workspace
from tests.support.mounts import TinyTmpfs
from tests.support.processes import children, processes_with

ROOT = Path(__file__).resolve().parents[1]


def test_all_memory_but_a_rest_is_held_until_the_block_ends() -> None:
    meminfo = "MemTotal:       24683520 kB\nMemAvailable:   20971520 kB\n"
    assert ballast_bytes(meminfo) == 20 * (1 << 30) - LEFT_BYTES
    assert ballast_bytes("MemAvailable:   1024 kB\n") == 0

    before = set(children())
    with ballast(64 * MIB) as held:
        [holder] = set(children()) - before
        resident = Path(f"/proc/{holder}/status").read_text(encoding="ascii").partition("VmRSS:")[2].split()[0]
        assert int(resident) * KIB >= 64 * MIB
        assert held.word == "0.1 GiB"
    assert set(children()) <= before


def test_memory_that_is_lost_in_the_middle_is_told() -> None:
    before = set(children())
    with ballast(MIB) as held:
        [holder] = set(children()) - before
        os.kill(int(holder), signal.SIGKILL)
        deadline = time.monotonic() + 10
        while "lost" not in held.word:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_what_fails_unexpectedly_costs_only_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(_: Bench) -> Report:
        raise ValueError("a bug")

    monkeypatch.setitem(harness.BENCHMARKS, "many", broken)
    written = tmp_path / "found.md"
    assert harness.main(["plan", "many", "--quick", "--write-results", str(written)]) == 1
    assert "ValueError: a bug" in capsys.readouterr().out
    assert "## plan" in written.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--write-results", "plan"], "behind the names"),
        (["--write-results", "/nonexistent/found.md"], "cannot be written"),
        (["--quick", "--write-results", "benchmarks/../benchmarks/RESULTS.md"], "another FILE"),
        (["--plot", "README.md"], "no folder"),
        (["--folder", "/nonexistent"], "no folder"),
    ],
)
def test_what_could_not_be_written_is_refused_first(
    words: list[str], told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    with pytest.raises(SystemExit) as ended:
        harness.parsed(words)
    assert ended.value.code == 2
    assert told in capsys.readouterr().err


def test_a_folder_that_nginx_would_misread_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a b"
    folder.mkdir()
    with pytest.raises(SystemExit):
        harness.parsed(["--folder", str(folder)])
    assert "letters" in capsys.readouterr().err


def test_nothing_outlives_a_harness_that_is_killed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks", "memory", "--quick", "--rounds", "99", "--folder", str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*-run/log")):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    while left := processes_with(str(tmp_path)):  # a contender runs to its end
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_disk_without_room_is_told(tiny_tmpfs: Callable[[int], TinyTmpfs]) -> None:
    disk = tiny_tmpfs(4 * MIB)
    with workspace(str(disk.path)) as space, serving(space.folder("origin")) as origin:
        with pytest.raises(NoRoom, match="no room for 9 MiB to serve"):
            origin.add("big", 9 * MIB)
        with pytest.raises(NoRoom, match="--folder"):
            space.fresh("run", 1)


def test_a_contender_ends_with_a_harness_that_is_killed(tmp_path: Path) -> None:
    code = "import sys; from benchmarks.cost import run; run(['sleep', '77.125'], sys.argv[1])"
    child = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT)
    deadline = time.monotonic() + 60
    while len(processes_with("sleep 77.125")) < 1 or not (tmp_path / "log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill()
    child.wait()
    deadline = time.monotonic() + 20
    while left := processes_with("sleep 77.125"):
        assert time.monotonic() < deadline, left
        time.sleep(0.02)


def test_a_reader_that_left_ends_it_without_a_traceback() -> None:
    code = (
        "import sys; from benchmarks import __main__ as harness; "
        "harness.main = lambda words: print('x' * 300000) or 0; sys.exit(harness.printed([]))"
    )
    child = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.close()
    assert child.stderr is not None
    told = child.stderr.read()
    child.stderr.close()

    assert (child.wait(60), told) == (128 + signal.SIGPIPE, b"")


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["plan", "--write-results"], "some benchmarks are no whole run"),
        (["--quick", "--write-results"], "--quick measures nothing"),
        (["--write-results", ""], "--write-results is empty"),
        (["--plot", ""], "--plot is empty"),
        (["--plot", "/proc/none/x"], "--plot /proc/none/x is no folder"),
        (["--folder", ""], "--folder is empty"),
    ],
)
def test_what_would_lose_the_results_is_refused_first(
    capsys: pytest.CaptureFixture[str], words: list[str], told: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        harness.parsed(words)
    assert (ended.value.code, told in capsys.readouterr().err) == (2, True)


def test_a_temporary_folder_that_nginx_would_misread_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a b").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "a b"))
    with pytest.raises(SystemExit):
        harness.parsed([])
    assert "--folder names another one" in capsys.readouterr().err


def test_memory_that_cannot_be_held_is_told() -> None:
    with pytest.raises(NoMemory, match="--no-ballast"), ballast(1 << 60):
        pass


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_no_file_and_no_process(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "benchmarks", "memory", "--quick", "--rounds", "99", "--folder", str(tmp_path)]
    child = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/*-run/log")):  # the first contender was started
        assert time.monotonic() < deadline
        assert child.poll() is None
        time.sleep(0.02)
    child.send_signal(number)
    _, told = child.communicate(timeout=60)

    assert child.returncode == 128 + number
    assert f"ended by {number.name}; its files are deleted" in told
    assert list(tmp_path.iterdir()) == []
    assert processes_with(str(tmp_path)) == []


PYTESTS_OWN = frozenset(
    {"testpaths", "addopts", "markers", "pythonpath", "xfail_strict", "filterwarnings", "faulthandler_timeout"}
)
# What pytest refuses to start with when its plugin is missing.
PLUGINS = {"timeout": "pytest-timeout", "timeout_method": "pytest-timeout", "trio_mode": "pytest-trio"}


def test_the_extra_brings_every_plugin_that_pytest_is_configured_for() -> None:
    """The micro-benchmarks run under the project's pytest settings, in an environment of the ``bench`` extra alone."""
    with open(ROOT / "pyproject.toml", "rb") as source:
        project = tomllib.load(source)
    brought = {re.split("[<>=; ]", each)[0] for each in project["project"]["optional-dependencies"]["bench"]}
    settings = set(project["tool"]["pytest"]["ini_options"])

    assert settings - set(PLUGINS) <= PYTESTS_OWN
    assert {PLUGINS[each] for each in settings & set(PLUGINS)} | {"pytest", "pytest-benchmark"} <= brought
