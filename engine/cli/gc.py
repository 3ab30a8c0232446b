"""``gc``: take from the disk what nothing needs any more, and say what that was."""

from __future__ import annotations

import argparse
import os

import msgspec
import trio

from engine import Config, StoreBusy, StoreUnusable, open_engine
from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.interrupt import until_interrupted
from engine.cli.library import has_store
from engine.cli.reports import ask, command_for
from engine.cli.text import fault_text, size
from engine.control.maintenance import MaintenanceReport
from engine.control.orphans import Finding
from engine.model.commands import Verb


def run(arguments: argparse.Namespace) -> int:
    """Clean up, or with ``--dry-run`` only tell what that would do. Raises StoreError, StorageError."""
    if not has_store(arguments.root):
        raise StoreUnusable(f"there is no store in {arguments.root}")
    here = _CleanUp(arguments)
    code = trio.run(here.run)
    return code if here.busy is None else _elsewhere(arguments, here.busy)


class _CleanUp:
    """One run of the verb by an engine of its own. ``busy``: another process has the root, and nothing was done."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.busy: StoreBusy | None = None
        self._arguments = arguments
        self._report: MaintenanceReport | None = None

    async def run(self) -> int:
        interrupted = await until_interrupted(self._clean_up)
        if self._report is not None:
            _tell(self._report, as_json=self._arguments.json)
        elif interrupted:
            warn(f"{PROGRAM}: interrupted; not all was looked at")
            return status.INTERRUPTED
        return status.COMPLETE

    async def _clean_up(self) -> None:
        arguments = self._arguments
        try:
            async with open_engine(arguments.root, resume=False, config=Config(records_only=True)) as engine:
                self._report = await engine.gc(dry_run=arguments.dry_run)
        except StoreBusy as busy:
            if busy.pid == os.getpid():
                raise
            self.busy = busy


def _elsewhere(arguments: argparse.Namespace, busy: StoreBusy) -> int:
    """Have the engine clean up that runs in another process."""
    command = command_for(Verb.GC, dry_run=arguments.dry_run)
    for _, found in ask(arguments.root, [command], MaintenanceReport, busy):
        if not isinstance(found, MaintenanceReport):
            why = escape(found.outcome.value) if found.error is None else fault_text(found.error)
            warn(f"{PROGRAM}: gc refused: {why}")
            return status.FAILED
        _tell(found, as_json=arguments.json)
    return status.COMPLETE


def _tell(report: MaintenanceReport, *, as_json: bool) -> None:
    if as_json:
        print_json(msgspec.to_builtins(report))
        return
    for finding in report.findings:
        print_line(_as_line(finding))
    if report.findings_left_out:
        print_line(f"… and {report.findings_left_out} more")
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
