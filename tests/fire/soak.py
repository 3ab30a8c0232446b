"""Entries in and out, round after round, in one engine: nothing may grow with their number (issue: soak).

``python -m tests.fire.soak --minutes 60`` is the long tier: 1,000 entries a round, each with an id of its own; most are
small, some have many chunks, some fail, some are paused, cancelled, members of groups; then all are removed. After each
round the process is measured. The first third of the rounds warms up; behind it the median slope of each number, over
all pairs of rounds, must be nothing (for what is counted) or next to nothing (for memory).
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import itertools
import os
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import trio

from engine import DownloadRequest, Engine, EngineError, State, open_engine
from engine.config import KIB, MIB
from engine.model.groups import GroupRequest
from tests.fire.options import ended
from tests.support.library import files_under, payload_of, small
from tests.support.nginx import Nginx, run_nginx

SIZES = {"tiny": 3 * KIB, "one": 15 * KIB, "few": 70 * KIB, "many": 1 * MIB}
KINDS = (*["tiny"] * 20, *["one"] * 13, *["few"] * 6, "many")
CONFIG = small(entries_at_once=16, progress_interval_s=0.25, map_bytes=64 * MIB)
WARM_ENTRIES = 5000  # keys and URLs of 4,096 are remembered
AT_WORK = (State.PENDING, State.IN_PROGRESS)
IDLE_S = 0.2  # until what a round left to do is done

# What each number may grow by with 1,000 entries; and what it comes and goes by from one round to another.
GROWTH = {
    "descriptors": (2.0, 16),
    "map_mib": (0.0, 0),
    "store_kib": (64.0, 64),
    "objects": (300.0, 300),
    "blocks": (400.0, 1000),
    "malloc_kib": (32.0, 128),
    "anonymous_kib": (256.0, 1024),
}
# Threads of workers, commits and sealing come and go; each that has read holds one of LMDB's slots for readers.
MOST = {"threads": 24, "readers": 24, "descriptors": 120}


@dataclass(frozen=True, slots=True)
class Measure:
    """The process after a round. ``objects``: of Python, that can hold others; ``blocks``: all of Python's that are in
    use; ``malloc_kib``: what is in use of everything else's. Those are exact. ``anonymous_kib``: resident memory
    without pages of files, as those of the store's map are, but with the gaps of the allocators."""

    descriptors: int
    threads: int
    readers: int
    map_mib: float
    store_kib: int
    objects: int
    blocks: int
    malloc_kib: int
    anonymous_kib: int


def measure(engine: Engine, root: Path) -> Measure:
    """The process as it is."""
    gc.collect()
    environment = engine._services.store._environment
    raw = environment._environment()
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines())
    return Measure(
        descriptors=len(os.listdir("/proc/self/fd")),
        threads=int(status["Threads"]),
        readers=raw.info()["num_readers"],
        map_mib=environment.map_bytes / MIB,
        store_kib=(root / "store" / "data.mdb").stat().st_blocks // 2,
        objects=len(gc.get_objects()),
        blocks=sys.getallocatedblocks(),
        malloc_kib=_malloc_bytes() // 1024,
        anonymous_kib=int(status["RssAnon"].split()[0]),
    )


class _MallocInfo(ctypes.Structure):
    """glibc's ``struct mallinfo2``."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


_LIBC = ctypes.CDLL(None)
_LIBC.mallinfo2.restype = _MallocInfo


def _malloc_bytes() -> int:
    """Bytes in use that came from malloc, in all of its arenas and in maps of their own."""
    info = _LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def slope(values: Sequence[float]) -> float:
    """By how much they grow from one to the next: the median over all pairs, which a few outliers do not move."""
    pairs = itertools.combinations(enumerate(values), 2)
    return statistics.median((late - early) / (after - before) for (before, early), (after, late) in pairs)


def judge(measures: Sequence[Measure], entries_a_round: int, warm_entries: int = WARM_ENTRIES) -> list[str]:
    """Every number that grows behind the first third, and once the bounded memories are full."""
    warm = measures[max(len(measures) // 3, -(-warm_entries // entries_a_round)) :]
    assert len(warm) >= 4, "too few rounds behind the warm ones to tell growth from noise"
    found = [
        f"there were {max(getattr(each, name) for each in measures)} {name}, more than {most}"
        for name, most in MOST.items()
        if max(getattr(each, name) for each in measures) > most
    ]
    for name, (allowed, noise) in GROWTH.items():
        values = [float(getattr(each, name)) for each in warm]
        steady = slope(values)
        grown = steady * 1000 / entries_a_round
        if grown > allowed and steady * len(warm) > noise:
            found.append(f"{name} grow by {grown:.1f} for 1,000 entries: {values}")
    return found


async def play_round(engine: Engine, nginx: Nginx, number: int, entries: int) -> None:
    """So many entries in, and out again."""
    rng = random.Random(number)
    kinds = rng.choices(KINDS, k=entries)
    requests = [
        DownloadRequest(url=f"{nginx.http}/{kind}?{at}", id=f"{kind}-{number}-{at}") for at, kind in enumerate(kinds)
    ]
    album = tuple((request, 1, at) for at, request in enumerate(requests[: entries // 10]))
    lost = [DownloadRequest(url=f"{nginx.http}/nothing?{at}", id=f"lost-{number}-{at}") for at in range(entries // 100)]
    await engine.add_group(GroupRequest(id=f"album-{number}", kind="album", title="x", members=album))
    await engine.offline_many([*requests[entries // 10 :], *lost])
    for request in rng.sample(requests, max(1, entries // 50)):
        for verb in rng.sample(_verbs(engine), 2):
            try:
                await verb(request.id or "")
            except EngineError as error:
                if error.code != "illegal_transition":  # as when it was faster
                    raise
    await engine.resume_all()
    await _rest(engine)
    states = [entry.state for entry in await engine.list(limit=10_000)]
    assert states.count(State.COMPLETED) >= entries * 0.9
    await engine.remove_group(f"album-{number}")
    await engine.remove_all()
    await engine.perform_maintenance_cleanup()
    assert await engine.list() == []
    await trio.sleep(IDLE_S)


def _verbs(engine: Engine) -> list[Callable[[str], Awaitable[object]]]:
    return [engine.pause, engine.resume, engine.cancel]


async def _rest(engine: Engine) -> None:
    while any([await engine.list(state=state, limit=1) for state in AT_WORK]):  # noqa: ASYNC110
        await trio.sleep(0.02)


async def soak(
    nginx: Nginx, root: Path, seconds: float, entries: int, warm_entries: int, tell: Callable[[str], None]
) -> list[Measure]:
    """Rounds for so long, and until there are six behind the warm ones; the measures behind each."""
    for kind, size in SIZES.items():
        nginx.put(kind, payload_of(size, seed=size))
    measures: list[Measure] = []
    began = time.monotonic()
    async with open_engine(root, config=CONFIG, seed=1) as engine:
        while len(measures) < -(-warm_entries // entries) + 6 or time.monotonic() - began < seconds:
            await play_round(engine, nginx, len(measures), entries)
            measures.append(measure(engine, root))
            tell(f"{time.monotonic() - began:7.1f} s, round {len(measures)}: {measures[-1]}")
        assert files_under(root / "files") == set()
    return measures


def entries_of(text: str) -> int:
    """As many as a round needs to have some of each kind."""
    number = int(text)
    if number < 100:
        raise argparse.ArgumentTypeError(f"at least 100, not {number}")
    return number


def main() -> int:
    """The long tier."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60.0, help="at least, and until there are enough rounds")
    parser.add_argument("--entries", type=entries_of, default=1000, help="a round; 100 or more (default: %(default)s)")
    options = parser.parse_args()

    def tell(line: str) -> None:
        print(line, flush=True)  # the long tier's report

    with tempfile.TemporaryDirectory(prefix="soak-") as folder, run_nginx(Path(folder, "nginx")) as nginx:
        root = Path(folder, "library")
        measures = trio.run(soak, nginx, root, options.minutes * 60, options.entries, WARM_ENTRIES, tell)
    found = judge(measures, options.entries)
    tell(f"{len(measures) * options.entries} entries in {len(measures)} rounds; growing: {found or 'nothing'}")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(ended(main))
