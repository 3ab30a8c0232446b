"""From one connection to a thousand: the server limits each so that the total is the same, and ours must keep it up."""

from __future__ import annotations

from benchmarks.bench import KIB, MIB, Bench
from benchmarks.cost import Cost
from benchmarks.facts import PAIRS_MIN, Fact, paired
from benchmarks.many import driven
from benchmarks.origin import Origin, serving
from benchmarks.report import Curve, Report
from benchmarks.turns import Contender, in_turns
from engine import Config

BASE_RSS_BYTES = 100 * MIB
CONNECTION_RSS_BYTES = 64 * KIB
REFERENCE = 4  # connections; the total at any other count is compared with the total at this one
SLOWER_MAX = 8  # times the time that the server's limits ask for; then a run is given up
TIMEOUT_S_MIN = 60.0


def _contender(bench: Bench, origin: Origin, count: int) -> Contender:
    """``count`` entries at once, each over one connection and with one request, so that the limit binds each."""
    scale = bench.scale
    names = origin.add_many(f"limited-{count}", count, scale.limited_total_bytes // count)
    urls = [origin.limited_url(name, scale.limited_bytes_s // count) for name in names]
    settings = {"entries_at_once": count, "connections_max": max(count, Config().connections_max)}
    whole = scale.limited_total_bytes
    settings |= {"first_span_bytes": whole, "span_bytes_min": whole, "span_bytes_max": whole}
    return Contender(str(count), names, lambda folder: driven(folder, urls, settings, "--connections", "1"))


def measure(bench: Bench) -> Report:
    """Total throughput and peak memory for every count of connections."""
    scale, report = bench.scale, Report()
    timeout_s = max(TIMEOUT_S_MIN, SLOWER_MAX * scale.limited_total_bytes / scale.limited_bytes_s)
    with serving(bench.workspace.folder("origin")) as origin:
        racing = [_contender(bench, origin, count) for count in scale.connection_counts]
        outcome = in_turns(bench, origin, racing, timeout_s=timeout_s)
    report.take(outcome)
    for label, costs in outcome.costs.items():
        report.rows[f"over {label}"] = {
            "mib_s": Fact.of([_rate(cost) / MIB for cost in costs]),
            "cpu_s": Fact.of([cost.cpu_s for cost in costs]),
            "rss_mib": round(max(cost.rss_kib for cost in costs) / 1024, 1),
        }
    reference = outcome.costs.get(str(REFERENCE), [])
    if len(reference) >= PAIRS_MIN and not outcome.failed:
        rates = [_rate(cost) for cost in reference]
        shares = [paired([_rate(cost) for cost in costs], rates) for costs in outcome.costs.values()]
        report.facts["least_share_of_four"] = min(shares, key=lambda share: share.median)
        over = [
            Fact.of([_over_allowance(int(label), cost) / MIB for cost in costs])
            for label, costs in outcome.costs.items()
        ]
        report.facts["rss_over_allowance_mib"] = max(over, key=lambda fact: fact.high)
    report.notes.append(
        f"the server gives all together {scale.limited_bytes_s // MIB} MiB/s, and a burst of one second at the start"
    )
    report.curve = Curve(
        "Throughput over connections",
        "connections",
        "MiB/s",
        {
            "ours": [
                (int(label), Fact.of([_rate(cost) / MIB for cost in costs]).median)
                for label, costs in outcome.costs.items()
            ]
        },
    )
    return report


def _rate(cost: Cost) -> float:
    """Bytes a second between the opened engine and the last finished file."""
    return cost.checked_bytes / cost.told()["work_s"]


def _over_allowance(connections: int, cost: Cost) -> float:
    """Bytes of memory beyond what the target allows, the buffer budget left out; negative: so much was left."""
    budget = Config().buffer_count * Config().chunk_bytes
    return cost.rss_kib * KIB - budget - BASE_RSS_BYTES - connections * CONNECTION_RSS_BYTES
