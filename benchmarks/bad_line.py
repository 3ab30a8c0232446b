"""One file over a line of 50 ms that loses 1 % of its packets: ours beside aria2c with 16 connections, and curl.

Once with a server that answers each loss as the standard asks (Reno: every connection is slow, and only more of them
help), and once with the machine's own congestion control on a line of 100 Mbit/s. Where each loss halves the rate curl
would need minutes over its one connection, so there it takes no part.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial

from benchmarks.bench import Bench
from benchmarks.facts import Fact, paired
from benchmarks.lines import NEEDS, SERVER_ADDRESS, Line, Quality, line
from benchmarks.origin import Origin, serving
from benchmarks.report import Report, race_rows
from benchmarks.turns import OUTPUT, Contender, Outcome, in_turns, ours

NAME = "bad-line.bin"
OURS = "ours"
LOSS = Quality(delay_s=0.025, loss=0.01)
LOSS_100_MBIT = Quality(delay_s=0.025, loss=0.01, rate=12_500_000, queue_bytes=1_000_000)


def measure(bench: Bench) -> Report:
    """Wall seconds of each on both lines, and our goodput over that of the best other one in each round."""
    report = Report()
    if os.geteuid() != 0:
        report.missing.append("the bad line: needs root, for network namespaces and TUN devices")
        return report
    for label, quality, control, size in (
        ("reno", LOSS, "reno", bench.scale.bad_line_bytes),
        ("100 Mbit/s", LOSS_100_MBIT, "", 2 * bench.scale.bad_line_bytes),
    ):
        outcome = _race(bench, quality, control, size)
        report.take(outcome)
        report.rows |= {f"{label}: {name}": row for name, row in race_rows(outcome, OURS).items()}
        others = [costs for name, costs in outcome.costs.items() if name != OURS]
        if OURS in outcome.costs and others:
            report.facts[f"of_best_{label.partition(' ')[0]}"] = _of_best(outcome)
    return report


def _race(bench: Bench, quality: Quality, control: str, size: int) -> Outcome:
    folder = bench.workspace.folder("origin")
    with (
        line(bench.workspace.folder("line"), quality, congestion_control=control) as ends,
        serving(folder, address=SERVER_ADDRESS, enter=ends.server) as origin,
    ):
        origin.add(NAME, size)
        return in_turns(bench, origin, _contenders(origin, ends, with_curl=not control))


def _contenders(origin: Origin, ends: Line, *, with_curl: bool) -> list[Contender]:
    url = origin.url(NAME)
    own = ours(origin, NAME, "--durability", "relaxed")

    def there(command: Callable[[str], list[str]], folder: str) -> list[str]:
        return [*ends.client, *command(folder)]

    def aria2c(folder: str) -> list[str]:
        return ["aria2c", "-q", "-x16", "-s16", "-k1M", "-d", os.path.join(folder, OUTPUT), "-o", NAME, url]

    def curl(folder: str) -> list[str]:
        return ["curl", "-sf", "-o", os.path.join(folder, OUTPUT, NAME), url]

    racing = [
        Contender(OURS, (NAME,), partial(there, own), NEEDS),
        Contender("aria2c -x16 -s16 -k1M", (NAME,), partial(there, aria2c), ("aria2c", *NEEDS)),
    ]
    return [*racing, Contender("curl", (NAME,), partial(there, curl), ("curl", *NEEDS))] if with_curl else racing


def _of_best(outcome: Outcome) -> Fact:
    """Our goodput over the best of the others', round by round."""
    mine = [cost.wall_s for cost in outcome.costs[OURS]]
    others = [[cost.wall_s for cost in costs] for name, costs in outcome.costs.items() if name != OURS]
    return paired([min(walls) for walls in zip(*others, strict=True)], mine)
