"""What ours is measured beside: where each is found, and how to install what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass

EXTRA = "pip install -e '.[bench]'"


@dataclass(frozen=True, slots=True)
class Peer:
    """A program (``is_module`` False) or a Python library, and the command that installs it."""

    name: str
    install: str
    is_module: bool = False
    version_words: tuple[str, ...] = ("--version",)

    @property
    def present(self) -> bool:
        """Whether it can be used here."""
        if self.is_module:
            return importlib.util.find_spec(self.name) is not None
        return shutil.which(self.name) is not None

    @property
    def lack(self) -> str:
        """What to tell when it is missing."""
        return f"{self.name} is missing: {self.install}"

    def version(self) -> str:
        """The version as it tells it itself, or ``missing``."""
        if not self.present:
            return "missing"
        if self.is_module:
            return importlib.metadata.version(self.name)
        done = subprocess.run([self.name, *self.version_words], capture_output=True, text=True, check=False)
        told = (done.stdout or done.stderr).strip().splitlines()
        return told[0] if told and not done.returncode else f"unknown: it ended with {done.returncode}"


ALL = (
    Peer("cc", "apt-get install gcc libc6-dev"),
    Peer("curl", "apt-get install curl"),
    Peer("aria2c", "apt-get install aria2"),
    Peer("wget2", "apt-get install wget2"),
    Peer("b3sum", "apt-get install b3sum"),
    Peer("httpx", EXTRA, is_module=True),
    Peer("aiohttp", EXTRA, is_module=True),
    Peer("pypdl", EXTRA, is_module=True),
)
# For lines of a certain quality.
LINE = (
    Peer("ip", "apt-get install iproute2", version_words=("-V",)),
    Peer("nsenter", "apt-get install util-linux"),
)
BY_NAME = {peer.name: peer for peer in ALL + LINE}
# For the curves and the micro-benchmarks; no contender needs them.
TOOLS = (Peer("matplotlib", EXTRA, is_module=True), Peer("pytest_benchmark", EXTRA, is_module=True))


class PeerMissing(Exception):
    """Something that a benchmark needs is not there; the message says how to install it."""


def require(*names: str) -> None:
    """Raise PeerMissing unless all of them are there."""
    if lacks := missing(names):
        raise PeerMissing("; ".join(lacks))


def compiled(source: str, binary: str, *flags: str) -> str:
    """Build the C file; returns ``binary``. Raises PeerMissing without a compiler, RuntimeError when it fails."""
    require("cc")
    command = ["cc", "-O2", "-Wall", "-Wextra", *flags, source, "-o", binary]
    command += ["-ldl"] if "-shared" in flags else []
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{os.path.basename(source)} cannot be compiled: {done.stderr.strip()[-500:]}")
    return binary


def missing(names: Iterable[str]) -> list[str]:
    """What to tell of those of these peers that are not there."""
    return [BY_NAME[name].lack for name in names if not BY_NAME[name].present]
