"""What a benchmark found: rows for people, facts to be judged by the targets, a curve."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.facts import Fact, wall_ratio
from benchmarks.turns import Outcome

Value = Fact | float | int | str | bool


@dataclass(frozen=True, slots=True)
class Curve:
    """Points ``(x, y)`` by series, and what the axes mean. ``logarithmic_y`` for values over several powers of ten."""

    title: str
    x_label: str
    y_label: str
    series: dict[str, list[tuple[float, float]]]
    logarithmic_y: bool = False


@dataclass(slots=True)
class Report:
    """``rows``: label to columns. ``facts``: what the targets name. ``missing`` and ``failed`` say what is not there
    and why; ``notes`` what one must know to read the numbers."""

    rows: dict[str, dict[str, Value]] = field(default_factory=dict)
    facts: dict[str, Fact] = field(default_factory=dict)
    curve: Curve | None = None
    missing: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def take(self, outcome: Outcome) -> None:
        """Add what was missing and what failed in some turns."""
        self.missing += [lack for lack in outcome.missing if lack not in self.missing]
        self.failed |= outcome.failed

    def lines(self) -> list[str]:
        """For a terminal."""
        told = []
        for label, columns in self.rows.items():
            values = "  ".join(f"{name} {shown(value)}" for name, value in columns.items())
            told.append(f"  {label:28} {values}")
        told += [f"  FAILED {label}: {what}" for label, what in self.failed.items()]
        told += [f"  not measured: {lack}" for lack in self.missing]
        told += [f"  note: {note}" for note in self.notes]
        return told

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "rows": {label: _plain(columns) for label, columns in self.rows.items()},
            "facts": _plain(self.facts),
            "missing": self.missing,
            "failed": self.failed,
            "notes": self.notes,
        }


def shown(value: Value) -> str:
    """A value as a text for people."""
    if isinstance(value, bool):
        return "yes" if value else "NO"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _plain(columns: Mapping[str, Value]) -> dict[str, object]:
    return {name: value.as_json() if isinstance(value, Fact) else value for name, value in columns.items()}


def race_rows(outcome: Outcome, baseline: str) -> dict[str, dict[str, Value]]:
    """A row for each contender, with its wall time over that of ``baseline`` in the same round. Raises
    TooFewPairs."""
    rows: dict[str, dict[str, Value]] = {}
    for label, costs in outcome.costs.items():
        rows[label] = {
            "wall_s": Fact.of([cost.wall_s for cost in costs]),
            "cpu_s": Fact.of([cost.cpu_s for cost in costs]),
            "rss_mib": round(max(cost.rss_kib for cost in costs) / 1024, 1),
        }
        if baseline in outcome.costs:
            rows[label]["times_ours"] = wall_ratio(costs, outcome.costs[baseline])
    return rows
