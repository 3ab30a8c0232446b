"""A measured number with its spread. A ratio is the median of the ratios within each round, or it is not told."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benchmarks.cost import Cost

PAIRS_MIN = 3  # of fewer rounds the median is just one of them, and says nothing on a noisy machine


class TooFewPairs(Exception):
    """A ratio was asked for from fewer than three rounds."""


@dataclass(frozen=True, slots=True)
class Fact:
    """The median of ``count`` values, the least and the greatest of them."""

    median: float
    low: float
    high: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Fact:
        """The fact of these values, at least one."""
        return cls(statistics.median(values), min(values), max(values), len(values))

    def __str__(self) -> str:
        """``1.25 (1.2..1.31)``: three digits are all that such a machine can hold."""
        if self.count == 1 or self.low == self.high:
            return f"{self.median:.3g}"
        return f"{self.median:.3g} ({self.low:.3g}..{self.high:.3g})"

    def as_json(self) -> dict[str, float]:
        """For programs."""
        return {"median": self.median, "min": self.low, "max": self.high, "count": self.count}


def paired(
    theirs: Sequence[float], ours: Sequence[float], operation: Callable[[float, float], float] = lambda a, b: a / b
) -> Fact:
    """``theirs`` over ``ours`` (or another operation on the two) round by round.

    Raises TooFewPairs from fewer than three rounds, ValueError when they are not of the same rounds.
    """
    if min(len(theirs), len(ours)) < PAIRS_MIN:
        raise TooFewPairs(f"a ratio needs {PAIRS_MIN} pairs, and there are {min(len(theirs), len(ours))}")
    return Fact.of([operation(their, our) for their, our in zip(theirs, ours, strict=True)])


def wall_ratio(theirs: Sequence[Cost], ours: Sequence[Cost]) -> Fact:
    """Their wall time over ours: above 1, ours was faster."""
    return paired([cost.wall_s for cost in theirs], [cost.wall_s for cost in ours])
