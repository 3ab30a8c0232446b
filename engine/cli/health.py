"""``health``: how the downloads of a library are doing; works while another process runs the engine."""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator

import msgspec

from engine.cli import status
from engine.cli.console import escape, print_json, print_line
from engine.cli.library import open_store
from engine.cli.text import size
from engine.control.health import DownloadHealth, download_health


def run(arguments: argparse.Namespace) -> int:
    """Print the sums over all records. Raises StoreError."""
    with open_store(arguments.root) as store:
        health = download_health(store, time.time())
    if arguments.json:
        print_json(msgspec.to_builtins(health))
    else:
        for line in _as_lines(health):
            print_line(line)
    return status.COMPLETE


def _as_lines(health: DownloadHealth) -> Iterator[str]:
    counts = ", ".join(f"{count} {escape(state)}" for state, count in health.counts.items() if count)
    yield f"entries         {health.entries}" + (f": {counts}" if counts else "")
    yield f"succeeded       {_share(health.success_rate)} of those that ended"
    yield f"tried again     {_share(health.retry_rate)} of those that were tried"
    yield f"fetched         {size(health.bytes_fetched)}, of it {size(health.bytes_wasted)} wasted"
    yield f"reclaimed       {size(health.bytes_reclaimed)} in {health.files_removed} files"
    yield f"oldest waiting  {_seconds(health.oldest_waiting_s)}"
    yield f"active time     {_seconds(health.active_s_mean)} for an entry, on average"
    for scope in sorted(health.disk_bytes.keys() | health.quota_bytes.keys()):
        bound = health.quota_bytes.get(scope, 0)
        taken = size(health.disk_bytes.get(scope, 0)) + (f" of at most {size(bound)}" if bound else "")
        yield f"on disk         {taken}" + (f" by scope {escape(scope)}" if scope else "")


def _share(rate: float | None) -> str:
    return "-" if rate is None else f"{100 * rate:.0f}%"


def _seconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:.1f} s"
