"""``list``: one line for each entry, in order of adding; works while another process runs the engine."""

from __future__ import annotations

import argparse

from engine.cli import status
from engine.cli.console import escape, print_json, print_line
from engine.cli.library import PAGE_ENTRIES, has_store, open_store
from engine.cli.outcome import bytes_total, error_json
from engine.cli.text import progress, shown_url, size, state_text
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.store.state_store import StateStore


def run(arguments: argparse.Namespace) -> int:
    """Print the entries. A root without a store is an empty library. Raises StoreError."""
    if not has_store(arguments.root):
        return status.COMPLETE
    wanted = State(arguments.state) if arguments.state else None
    with open_store(arguments.root) as store:
        after: str | None = None
        while page := store.list(wanted, after, PAGE_ENTRIES):
            for entry in page:
                if arguments.json:
                    print_json(_as_json(store, entry))
                else:
                    print_line(_as_line(store, entry))
            after = page[-1].id
    return status.COMPLETE


def _path(store: StateStore, entry: DownloadEntry) -> str | None:
    offline = store.offline(entry.id) if entry.state is State.COMPLETED else None
    return offline.path if offline else None


def _as_json(store: StateStore, entry: DownloadEntry) -> dict[str, object]:
    parts = store.parts(entry.id)
    return {
        "id": entry.id,
        "state": entry.state.value,
        "reason": entry.state_reason.value,
        "url": entry.url,
        "path": _path(store, entry),
        "bytes_total": bytes_total(entry, parts),
        "bytes_done": sum(part.bytes_done for part in parts),
        "created_at": entry.created_at,
        "updated_at": entry.updated_at,
        "error": error_json(entry.last_error),
    }


def _as_line(store: StateStore, entry: DownloadEntry) -> str:
    path, parts = _path(store, entry), store.parts(entry.id)
    done, total = sum(part.bytes_done for part in parts), bytes_total(entry, parts)
    amount = size(total) if path is not None else progress(done, total)
    where = escape(path) if path is not None else shown_url(entry.url)
    return f"{escape(entry.id):<32}  {state_text(entry):<22}  {amount:<30}  {where}"
