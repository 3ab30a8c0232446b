"""The harnesses as programs: what they refuse, and that an interrupted run is neither a success nor a finding."""

from __future__ import annotations

import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.fire import bad_day, bad_day_native
from tests.fire.options import INTERRUPTED, ended, is_interrupt
from tests.support.engine_process import REPOSITORY

USAGE = 2


@pytest.mark.parametrize(
    "line",
    [
        "sim --seeds 0",
        "sim_model --seeds -3",
        "kills --kills 0",
        "kills --mutant nosuch",
        "shutdown --cycles 0",
        "mutants --share 0",
        "mutants --share 7",
        "mutants nosuch",
        "soak --entries 0",
        "bad_day --share 0",
        "bad_day --part 3/2",
        "bad_day --case nonsense",
        "bad_day --case nosuch:sync:1:0:0",
        "bad_day --case inbox:nosuch:1:0:0",
        "bad_day --case inbox:sync:1:999:0",
        "bad_day_native --case strict:nosuch:1:EIO:1",
        "bad_day_native --share 0",
        "power --images 0",
        "power --case 1:all:2",
        "power --replay /etc/passwd --case 1:all:2",
        "power --replay /nonexistent --case 1:all:2",
        "fuzz nosuch --plain",
        "fuzz url --input /nonexistent",
    ],
)
def test_what_would_try_nothing_is_refused(
    line: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, *words = line.split()
    harness = importlib.import_module(f"tests.fire.{name}")
    monkeypatch.setattr(sys, "argv", [name, *words])
    with pytest.raises(SystemExit) as refused:
        harness.main(words) if name in {"fuzz", "power", "shutdown"} else harness.main()
    told = capsys.readouterr().err
    assert (refused.value.code, "usage:" in told, "error:" in told) == (USAGE, True, True)


def test_a_case_is_told_and_parsed() -> None:
    assert str(bad_day.Case.parse("inbox:sync:3:-1:0")) == "inbox:sync:3:-1:0"
    assert str(bad_day_native.Case.parse("strict:pwrite:3:EIO:1")) == "strict:pwrite:3:EIO:1"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), BaseExceptionGroup("", [KeyboardInterrupt(), OSError()])])
def test_an_interrupt_is_no_finding(error: BaseException) -> None:
    def main() -> int:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    try:
        assert ended(main) == INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, before)
    assert not is_interrupt(ExceptionGroup("", [OSError()]))


def hears(pid: int, number: signal.Signals) -> bool:
    """Whether the process has a handler for the signal (proc(5))."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    caught = next(line for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (number - 1) & 1)


@pytest.mark.parametrize("harness", ["sim", "sim_model"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_simulation_has_found_nothing(harness: str, number: signal.Signals) -> None:
    command = [sys.executable, "-m", f"tests.fire.{harness}", "--seeds", "100000"]
    environ = {**os.environ, "PYTHONHASHSEED": "0"}
    child = subprocess.Popen(
        command, cwd=REPOSITORY, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    while not hears(child.pid, signal.SIGTERM):
        assert child.poll() is None
    time.sleep(0.5)  # somewhere in the middle of a day, if it is as fast as that
    child.send_signal(number)
    told, error = child.communicate(timeout=60)

    assert (child.returncode, told) == (INTERRUPTED, "")
    assert "interrupted" in error


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_harness_ends_and_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    command = [sys.executable, "-m", "tests.fire.kills", "--kills", "1000"]
    environ = {**os.environ, "TMPDIR": str(tmp_path)}
    child = subprocess.Popen(command, cwd=REPOSITORY, env=environ, stderr=subprocess.PIPE, text=True)
    while not list(tmp_path.glob("kills-*/round-0")):
        assert child.poll() is None
    child.send_signal(number)
    _, told = child.communicate(timeout=60)

    assert (child.returncode, "interrupted" in told, list(tmp_path.iterdir())) == (INTERRUPTED, True, [])
