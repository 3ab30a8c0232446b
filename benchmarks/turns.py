"""Contenders take turns, A B C A B C, each into a fresh folder, and every file that they leave is hashed."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from benchmarks import peers
from benchmarks.bench import Bench
from benchmarks.cost import TIMEOUT_S, ContenderFailed, Cost, run
from benchmarks.origin import Origin

OUTPUT = "out"


class WrongBytes(Exception):
    """A file that a contender left is missing, or is not what the origin served."""


@dataclass(frozen=True, slots=True)
class Contender:
    """``command(folder)`` is the command line that puts the files ``names`` into ``folder/out``; ``needs`` names the
    peers without which it cannot run."""

    label: str
    names: Sequence[str]
    command: Callable[[str], list[str]]
    needs: tuple[str, ...] = ()

    @property
    def lacks(self) -> list[str]:
        """What to tell of the peers that it needs and that are not there."""
        return peers.missing(self.needs)


@dataclass(slots=True)
class Outcome:
    """Costs by contender and round; what failed is left out of ``costs`` and told in ``failed``."""

    costs: dict[str, list[Cost]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)


def in_turns(bench: Bench, origin: Origin, contenders: Iterable[Contender], *, timeout_s: float = TIMEOUT_S) -> Outcome:
    """One warm-up each, then ``rounds`` times all of them in turn, so that noise falls on all alike.

    Raises WrongBytes; a contender that fails otherwise takes no further part.
    """
    outcome, racing = Outcome(), []
    for contender in contenders:
        if contender.lacks:
            outcome.missing += [lack for lack in contender.lacks if lack not in outcome.missing]
        else:
            racing.append(contender)
    for number in range(bench.scale.rounds + 1):
        for contender in racing:
            if contender.label in outcome.failed:
                continue
            try:
                cost = one(bench, origin, contender, timeout_s=timeout_s)
            except ContenderFailed as error:
                outcome.failed[contender.label] = str(error)
                outcome.costs.pop(contender.label, None)
                continue
            bench.tell(f"{contender.label}: {'warm-up' if number == 0 else f'round {number}'} {cost.wall_s:.3f} s")
            if number > 0:
                outcome.costs.setdefault(contender.label, []).append(cost)
    return outcome


def one(bench: Bench, origin: Origin, contender: Contender, *, timeout_s: float = TIMEOUT_S) -> Cost:
    """One run into a fresh folder, looked at afterwards. Raises ContenderFailed, WrongBytes, NoRoom."""
    size = sum(origin.sizes[name] for name in contender.names)
    folder = bench.workspace.fresh("run", size)
    os.mkdir(os.path.join(folder, OUTPUT))
    origin.refresh(contender.names)
    cost = run(contender.command(folder), folder, timeout_s=timeout_s)
    checked = check(contender.label, origin, contender.names, os.path.join(folder, OUTPUT))
    bench.workspace.retire(folder)
    return cost.checked(len(contender.names), checked)


def check(label: str, origin: Origin, names: Sequence[str], folder: str) -> int:
    """The number of bytes, after comparing every file with what was served. Raises WrongBytes.

    They are written back then, and stay in the page cache: clean pages are what the next run's come from.
    """
    size = 0
    for name in names:
        path = os.path.join(folder, os.path.basename(name))
        try:
            found = blake3().update_mmap(path).hexdigest()
            size += os.stat(path).st_size
        except OSError as error:
            raise WrongBytes(f"{label} left no {os.path.basename(name)}: {error.strerror}") from error
        if found != origin.hashes[name]:
            raise WrongBytes(f"{label} left a wrong {os.path.basename(name)}: {found}, not {origin.hashes[name]}")
    os.sync()
    return size


def ours(origin: Origin, name: str, *words: str, tls: bool = False) -> Callable[[str], list[str]]:
    """The command line of our own command for one file."""

    def command(folder: str) -> list[str]:
        return [
            *(sys.executable, "-m", "engine", "--root", os.path.join(folder, "library")),
            *("get", origin.url(name, tls=tls), "--json", "--no-progress"),
            *("--output", os.path.join(folder, OUTPUT, os.path.basename(name)), *words),
            *(("--cacert", origin.cafile) if tls else ()),
        ]

    return command
