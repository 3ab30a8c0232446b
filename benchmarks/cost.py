"""What one run of a command cost: wall, CPU and peak memory of the process and its children."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace

from benchmarks.children import end_with_parent

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(HERE)
# Everything else of the caller's environment is left out: a proxy or a ~/.curlrc would make another measurement.
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "OFFLINE_ENGINE_SIMD")
PRINTED_BYTES_MAX = 500
TIMEOUT_S = 120.0  # nothing here takes a tenth of it, unless something hangs


class ContenderFailed(Exception):
    """The command did not do what it was started for; the message has the end of what it printed."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, seconds of user and system time, and peak resident KiB. ``printed`` is what it wrote to its outputs.

    ``files`` and ``checked_bytes`` are what of its result was found right afterwards.
    """

    wall_s: float
    cpu_s: float
    rss_kib: int
    printed: str = ""
    files: int = 0
    checked_bytes: int = 0

    def told(self) -> dict[str, float]:
        """The numbers of the JSON object that a driver of ours printed as its last line."""
        found = json.loads(self.printed.strip().splitlines()[-1])
        return {name: float(value) for name, value in found.items()}

    def checked(self, files: int, size: int) -> Cost:
        """The same, with what was found right."""
        return replace(self, files=files, checked_bytes=size)


def environment(home: str) -> dict[str, str]:
    """Where contenders run: with no settings of the user's, and with their byte code cached, as when installed."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
    return {**kept, "HOME": home, "LC_ALL": "C.UTF-8"}


def run(command: Sequence[str], folder: str, *, timeout_s: float = TIMEOUT_S) -> Cost:
    """Run the command to its end; ``folder`` holds its log and is its home. Raises ContenderFailed.

    Whatever ends this call early, also a signal, ends the command.
    """
    log = os.path.join(folder, "log")
    launch = [sys.executable, "-I", "-S", os.path.join(HERE, "launcher.py"), str(timeout_s), log]
    launcher = subprocess.Popen(
        [*launch, *command],
        stdout=subprocess.PIPE,
        cwd=CHECKOUT,
        env=environment(folder),
        start_new_session=True,
        preexec_fn=end_with_parent,  # noqa: PLW1509  # no threads; the launcher takes its contender along
    )
    try:
        told, _ = launcher.communicate()
    except BaseException:
        os.killpg(launcher.pid, signal.SIGKILL)
        launcher.wait()
        raise
    with open(log, encoding="utf-8", errors="replace") as source:
        printed = source.read().replace(CHECKOUT + os.sep, "")  # results are committed, where the checkout is not
    if launcher.returncode != 0:
        raise ContenderFailed(f"{command[0]} could not be started")
    report = json.loads(told)
    if report["status"] != 0:
        with contextlib.suppress(ProcessLookupError):  # the usual case: nothing that it started outlived it
            os.killpg(launcher.pid, signal.SIGKILL)
        how = f"ended with {report['status']} after {report['wall_s']:.1f} s"
        raise ContenderFailed(f"{os.path.basename(command[0])} {how}: {printed[-PRINTED_BYTES_MAX:].strip()}")
    return Cost(report["wall_s"], report["cpu_s"], report["rss_kib"], printed)
