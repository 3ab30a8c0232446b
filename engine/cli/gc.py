"""``gc``: take from the disk what nothing needs any more, and say what that was."""

from __future__ import annotations

import argparse

import msgspec
import trio

from engine import Config, StoreUnusable, open_engine
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.interrupt import until_interrupted
from engine.cli.library import has_store
from engine.cli.text import size
from engine.control.maintenance import MaintenanceReport
from engine.control.orphans import Finding


def run(arguments: argparse.Namespace) -> int:
    """Clean up, or with ``--dry-run`` only tell what that would do. Raises StoreError, StorageError."""
    if not has_store(arguments.root):
        raise StoreUnusable(f"there is no store in {arguments.root}")
    return trio.run(_clean_up, arguments)


async def _clean_up(arguments: argparse.Namespace) -> int:
    reports: list[MaintenanceReport] = []

    async def work() -> None:
        async with open_engine(arguments.root, resume=False, config=Config(records_only=True)) as engine:
            reports.append(await engine.gc(dry_run=arguments.dry_run))

    if await until_interrupted(work) and not reports:
        warn(f"{PROGRAM}: interrupted; not all was looked at")
        return status.INTERRUPTED
    for report in reports:
        _tell(report, as_json=arguments.json)
    return status.COMPLETE


def _tell(report: MaintenanceReport, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(report))
        return
    for finding in report.findings:
        print_line(_as_line(finding))
    if report.dry_run:
        print_line(f"{size(report.bytes_reclaimed)} would be reclaimed")
    else:
        done = f"{report.files_removed} files and {report.entries_removed} entries removed"
        print_line(f"{size(report.bytes_reclaimed)} reclaimed: {done}")


def _as_line(finding: Finding) -> str:
    where = finding.path or finding.entry_id
    return escape(
        f"{finding.action.value:<12}  {finding.what.value:<12}  {size(finding.size):<10}  {where}  {finding.why}"
    )
