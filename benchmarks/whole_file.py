"""One large file over HTTP and HTTPS: ours beside the C floor, curl, wget2, aria2c and what Python offers."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Callable
from functools import partial

from benchmarks import peers
from benchmarks.bench import GIB, Bench
from benchmarks.facts import paired, wall_ratio
from benchmarks.origin import Origin, serving
from benchmarks.report import Report, race_rows
from benchmarks.turns import OUTPUT, Contender, Outcome, in_turns, ours

NAME = "big.bin"
HERE = os.path.dirname(os.path.abspath(__file__))
RELAXED, STRICT = "ours, relaxed", "ours, strict"
FLOOR, SYNCED_FLOOR = "C floor", "C floor, fdatasync"


def compiled_floor(bench: Bench) -> str:
    """``floor.c``, built."""
    binary = os.path.join(bench.workspace.folder("floor"), "floor")
    return peers.compiled(os.path.join(HERE, "floor.c"), binary, "-pthread")


def floors(bench: Bench, origin: Origin, connections: int) -> list[Contender]:
    """The C floor without and with a final fdatasync; it is built when it is first run."""
    built: list[str] = []

    def command(folder: str, *words: str) -> list[str]:
        if not built:
            built.append(compiled_floor(bench))
        return [built[0], "127.0.0.1", str(origin.port), f"/{NAME}", _target(folder), str(connections), *words]

    return [
        Contender(FLOOR, (NAME,), command, ("cc",)),
        Contender(SYNCED_FLOOR, (NAME,), lambda folder: command(folder, "--fdatasync"), ("cc",)),
    ]


def _target(folder: str) -> str:
    return os.path.join(folder, OUTPUT, NAME)


def _curl_sync_hash(url: str, folder: str) -> list[str]:
    target = shlex.quote(_target(folder))
    return ["sh", "-c", f"curl -sf -o {target} {url} && sync {target} && b3sum {target}"]


def _python(client: str, url: str, folder: str) -> list[str]:
    return [sys.executable, os.path.join(HERE, "clients", client), url, _target(folder)]


def http_contenders(bench: Bench, origin: Origin) -> list[Contender]:
    """Everyone over HTTP. Ours and its measure stand next to each other, so that they run close in time."""
    url, connections = origin.url(NAME), bench.scale.connections
    floor, synced_floor = floors(bench, origin, connections)
    own = partial(ours, origin, NAME, "--connections", str(connections))
    piece = max(1, bench.scale.whole_bytes // connections)
    table: tuple[tuple[str, Callable[[str], list[str]], tuple[str, ...]], ...] = (
        ("curl -o", lambda folder: ["curl", "-sf", "-o", _target(folder), url], ("curl",)),
        ("wget2", lambda folder: ["wget2", "-q", "-O", _target(folder), url], ("wget2",)),
        (
            "wget2, in pieces",
            lambda folder: [
                *("wget2", "-q", f"--chunk-size={piece}", f"--max-threads={connections}", "-O", _target(folder), url)
            ],
            ("wget2",),
        ),
        (
            f"aria2c -x{connections} -s{connections}",
            lambda folder: [
                *("aria2c", "-q", f"-x{connections}", f"-s{connections}", "-d", os.path.join(folder, OUTPUT)),
                *("-o", NAME, url),
            ],
            ("aria2c",),
        ),
        ("curl && sync && b3sum", partial(_curl_sync_hash, url), ("curl", "b3sum")),
        ("httpx", partial(_python, "httpx_stream.py", url), ("httpx",)),
        ("aiohttp", partial(_python, "aiohttp_stream.py", url), ("aiohttp",)),
        ("pypdl", partial(_python, "pypdl_segments.py", url), ("pypdl",)),
    )
    return [
        Contender(RELAXED, (NAME,), own("--durability", "relaxed")),
        floor,
        Contender(STRICT, (NAME,), own("--durability", "strict")),
        synced_floor,
        *(Contender(label, (NAME,), command, needs) for label, command, needs in table),
    ]


def https_contenders(bench: Bench, origin: Origin) -> list[Contender]:
    """Ours, curl, wget2 and aria2c over TLS, each checking the certificate against our authority."""
    url, connections = origin.url(NAME, tls=True), bench.scale.connections
    command = ours(origin, NAME, "--connections", str(connections), "--durability", "relaxed", tls=True)
    return [
        Contender(RELAXED, (NAME,), command),
        Contender(
            "curl -o",
            (NAME,),
            lambda folder: ["curl", "-sf", "--cacert", origin.cafile, "-o", _target(folder), url],
            ("curl",),
        ),
        Contender(
            f"aria2c -x{connections} -s{connections}",
            (NAME,),
            lambda folder: [
                *("aria2c", "-q", f"-x{connections}", f"-s{connections}", f"--ca-certificate={origin.cafile}"),
                *("-d", os.path.join(folder, OUTPUT), "-o", NAME, url),
            ],
            ("aria2c",),
        ),
        Contender(
            "wget2",
            (NAME,),
            lambda folder: ["wget2", "-q", f"--ca-certificate={origin.cafile}", "-O", _target(folder), url],
            ("wget2",),
        ),
    ]


def measure(bench: Bench) -> Report:
    """Everyone over HTTP, in one run."""
    report = Report()
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, bench.scale.whole_bytes)
        outcome = in_turns(bench, origin, http_contenders(bench, origin))
    report.take(outcome)
    report.rows = race_rows(outcome, RELAXED)
    costs, gib = outcome.costs, bench.scale.whole_bytes / GIB
    if RELAXED in costs and FLOOR in costs:
        report.facts["wall_over_floor"] = wall_ratio(costs[RELAXED], costs[FLOOR])
        report.facts["cpu_over_floor_s"] = paired(
            [cost.cpu_s for cost in costs[RELAXED]],
            [cost.cpu_s for cost in costs[FLOOR]],
            lambda own, floor: (own - floor) / gib,
        )
    if STRICT in costs and SYNCED_FLOOR in costs:
        report.facts["strict_rate_of_floor"] = wall_ratio(costs[SYNCED_FLOOR], costs[STRICT])
    _times_ours(report, outcome)
    return report


def measure_https(bench: Bench) -> Report:
    """The same over HTTPS."""
    report = Report()
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, bench.scale.whole_bytes)
        outcome = in_turns(bench, origin, https_contenders(bench, origin))
    report.take(outcome)
    report.rows = race_rows(outcome, RELAXED)
    _times_ours(report, outcome)
    return report


def _times_ours(report: Report, outcome: Outcome) -> None:
    """The facts ``times_curl``, ``times_aria2c``, ``times_wget2``: how many times as fast ours was."""
    costs = outcome.costs
    named = {"curl -o": "curl", "wget2": "wget2"} | {label: "aria2c" for label in costs if label.startswith("aria2c")}
    for label, name in named.items():
        if label in costs and RELAXED in costs:
            report.facts[f"times_{name}"] = wall_ratio(costs[label], costs[RELAXED])


def measure_memory(bench: Bench) -> Report:
    """Peak memory of the same file over 16 connections."""
    report = Report()
    with serving(bench.workspace.folder("origin")) as origin:
        origin.add(NAME, bench.scale.whole_bytes)
        command = ours(origin, NAME, "--connections", "16", "--durability", "relaxed")
        outcome = in_turns(bench, origin, [Contender("ours, 16 connections", (NAME,), command)])
    report.take(outcome)
    report.rows = race_rows(outcome, "")
    return report
