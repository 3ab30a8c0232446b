"""What every benchmark is given: how much to do, where, and whom to tell how it goes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace

from benchmarks.workspace import Workspace

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How much: the defaults are what the targets speak of."""

    rounds: int = 5
    settled: bool = True  # False: a smoke run, of which no number means anything
    whole_bytes: int = GIB
    connections: int = 4
    files: int = 2000
    small_bytes: int = 256 * KIB
    tiny_bytes: int = 4 * KIB
    parallel: int = 16
    connection_counts: tuple[int, ...] = (1, 4, 16, 64, 256, 1000)
    limited_total_bytes: int = 2048 * MIB  # a quarter of a minute: beginning a thousand entries is a part of it
    limited_bytes_s: int = 128 * MIB
    entry_counts: tuple[int, ...] = (1, 1_000, 10_000, 100_000)
    chunk_sizes: tuple[int, ...] = tuple((256 * KIB) << step for step in range(6))
    changed_entries: int = 4_000
    plan_bytes: int = 1 << 40
    slow_disk_bytes: int = 128 * MIB
    bad_line_bytes: int = 128 * MIB

    def quick(self) -> Scale:
        """A smoke run: everything is done, and no number of it means anything."""
        return replace(
            self,
            settled=False,
            whole_bytes=32 * MIB,
            files=60,
            connection_counts=(1, 4, 16),
            limited_total_bytes=12 * MIB,
            limited_bytes_s=6 * MIB,
            entry_counts=(1, 100, 1000),
            chunk_sizes=(256 * KIB, MIB),
            changed_entries=100,
            plan_bytes=1 << 34,
            slow_disk_bytes=16 * MIB,
            bad_line_bytes=4 * MIB,
        )


@dataclass(frozen=True, slots=True)
class Bench:
    """One run of the harness."""

    scale: Scale
    workspace: Workspace
    quiet: bool = False

    def tell(self, line: str) -> None:
        """A line of progress, on the standard error output."""
        if not self.quiet:
            print(f"  {line}", file=sys.stderr, flush=True)
