"""What the data plane must reach, as a table, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.facts import Fact
from benchmarks.report import Report


@dataclass(frozen=True, slots=True)
class Target:
    """The fact ``fact`` of a benchmark lies within the bounds (None: no bound on that side)."""

    benchmark: str
    what: str
    fact: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def bounds(self) -> str:
        """The bounds as a text."""
        if self.at_least is not None and self.at_most is not None:
            return f"{self.at_least:g} to {self.at_most:g}"
        return f"at least {self.at_least:g}" if self.at_least is not None else f"at most {self.at_most:g}"

    def passed_by(self, value: float) -> bool:
        """Whether the value lies within the bounds."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.at_most is None or value <= self.at_most)


TARGETS = (
    Target("whole-file", "1 GiB, wall over the C floor", "wall_over_floor", at_most=1.25),
    Target("whole-file", "1 GiB, CPU seconds per GiB beyond the C floor", "cpu_over_floor_s", at_most=0.30),
    Target("whole-file", "1 GiB, times as fast as curl", "times_curl", at_least=2.0),
    Target("whole-file", "1 GiB, times as fast as aria2c", "times_aria2c", at_least=3.0),
    Target("whole-file", "1 GiB, times as fast as wget2", "times_wget2", at_least=1.2),
    Target("whole-file", "strict, rate of the floor with fdatasync", "strict_rate_of_floor", at_least=0.9),
    Target("https", "HTTPS, times as fast as curl", "times_curl", at_least=1.0),
    Target("https", "HTTPS, times as fast as aria2c", "times_aria2c", at_least=1.5),
    Target("many", "files of 256 KiB, times as fast as curl -Z", "times_curl", at_least=1.0),
    Target("many", "files of 256 KiB, times as fast as aria2c", "times_aria2c", at_least=2.3),
    Target("tiny", "files of 4 KiB, entries a second", "entries_per_s", at_least=2000),
    Target("connections", "least share of the throughput at 4", "least_share_of_four", at_least=0.9),
    Target("connections", "peak memory beyond what is allowed, MiB", "rss_over_allowance_mib", at_most=0),
    Target("entries", "100,000 entries, seconds to open", "open_s", at_most=2.0),
    Target("entries", "100,000 entries, MiB after opening", "rss_mib", at_most=150),
    Target("entries", "adding one, cost over that in an empty store", "add_ratio", at_least=0.8, at_most=1.2),
    Target("changes", "all entries paused, state changes a second", "pause_all_per_s", at_least=5000),
    Target("changes", "all entries resumed, state changes a second", "resume_all_per_s", at_least=5000),
    Target("changes", "single entries paused by 64 tasks, changes a second", "pause_per_s", at_least=5000),
    Target("kernel", "AVX-512 path, rate of the blake3 package", "avx512_of_package", at_least=0.9),
    Target("kernel", "AVX2 path, rate of the blake3 package", "avx2_of_package", at_least=0.45),
    Target("kernel", "SSE2 path, rate of the blake3 package", "sse2_of_package", at_least=0.2),
    Target("plan", "plan of 1 TiB with random holes, ms", "ready_ms", at_most=50),
    Target("responsive", "a disk that hangs, ms that a task waits for its turn, p99", "late_p99_ms", at_most=10),
    Target("bad-line", "50 ms, 1 % loss, Reno: goodput of the best peer", "of_best_reno", at_least=0.95),
    Target("bad-line", "50 ms, 1 % loss, 100 Mbit/s: goodput of the best peer", "of_best_100", at_least=0.95),
    Target("kill", "after kill -9, MiB fetched again beyond the bound", "lost_over_bound_mib", at_most=0),
    Target("kill", "after kill -9, MiB of files read again", "read_again_mib", at_most=0.5),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """A target with what was reached; ``fact`` is None when it was not measured."""

    target: Target
    fact: Fact | None

    @property
    def word(self) -> str:
        """``pass``, ``SHORT`` or ``not measured``. The median is judged; the spread is told beside it."""
        if self.fact is None:
            return "not measured"
        return "pass" if self.target.passed_by(self.fact.median) else "SHORT"

    @property
    def reached(self) -> str:
        """The fact as a text."""
        return "" if self.fact is None else str(self.fact)

    def as_json(self) -> dict[str, object]:
        """For programs."""
        target = self.target
        reached = None if self.fact is None else self.fact.as_json()
        return {
            "benchmark": target.benchmark,
            "what": target.what,
            "bounds": target.bounds,
            "reached": reached,
            "verdict": self.word,
        }


def judge(reports: Mapping[str, Report]) -> list[Verdict]:
    """A verdict on every target, in the table's order."""
    return [
        Verdict(target, reports[target.benchmark].facts.get(target.fact) if target.benchmark in reports else None)
        for target in TARGETS
    ]
