"""The curves of a run as SVG files."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping

from benchmarks import peers
from benchmarks.report import Curve, Report

INCHES = (7.0, 4.0)


def lacks() -> list[str]:
    """What to tell when they cannot be drawn here."""
    return [tool.lack for tool in peers.TOOLS if tool.name == "matplotlib" and not tool.present]


def draw(reports: Mapping[str, Report], folder: str) -> list[str]:
    """One file for each report with a curve, named after its benchmark; returns their paths."""
    os.makedirs(folder, exist_ok=True)
    paths = []
    for name, report in reports.items():
        if report.curve is not None and any(report.curve.series.values()):
            path = os.path.join(folder, f"{name}.svg")
            _draw(report.curve, path)
            paths.append(path)
    return paths


def _draw(curve: Curve, path: str) -> None:
    matplotlib = importlib.import_module("matplotlib")  # a tool of the bench extra: need not be there for the rest
    matplotlib.use("svg")
    pyplot = importlib.import_module("matplotlib.pyplot")
    figure, axes = pyplot.subplots(figsize=INCHES, layout="constrained")
    for label, points in curve.series.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", label=label)
    ticks = sorted({x for points in curve.series.values() for x, _ in points})
    axes.set_xscale("log")
    axes.set_xticks(ticks, [f"{tick:,.0f}" for tick in ticks])
    axes.minorticks_off()
    if curve.logarithmic_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=0)
    axes.set(title=curve.title, xlabel=curve.x_label, ylabel=curve.y_label)
    axes.grid(visible=True, alpha=0.3)
    if len(curve.series) > 1:
        axes.legend()
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)
