"""``list``: one line for each entry, in order of adding; works while another process runs the engine."""

from __future__ import annotations

import argparse

from engine.cli import status
from engine.cli.library import PAGE_ENTRIES, has_store, open_store
from engine.cli.outcome import error_json
from engine.cli.text import escape, print_json, print_line, shown_url, size
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


def _bytes_done(store: StateStore, entry: DownloadEntry) -> int:
    return sum(part.bytes_done for part in store.parts(entry.id))


def _path(store: StateStore, entry: DownloadEntry) -> str | None:
    offline = store.offline(entry.id) if entry.state is State.COMPLETED else None
    return offline.path if offline else None


def _as_json(store: StateStore, entry: DownloadEntry) -> dict[str, object]:
    return {
        "id": entry.id,
        "state": entry.state.value,
        "reason": entry.state_reason.value,
        "url": entry.url,
        "path": _path(store, entry),
        "bytes_total": entry.bytes_total,
        "bytes_done": _bytes_done(store, entry),
        "created_at": entry.created_at,
        "updated_at": entry.updated_at,
        "error": error_json(entry.last_error),
    }


def _as_line(store: StateStore, entry: DownloadEntry) -> str:
    state = entry.state.value + (f" ({entry.state_reason.value})" if entry.state_reason.value else "")
    path = _path(store, entry)
    done, total = _bytes_done(store, entry), entry.bytes_total
    if path is not None:
        amount = size(total)
    elif total:
        amount = f"{size(done)} of {size(total)}, {100 * done // total}%"
    else:
        amount = f"{size(done)} of {size(total)}"
    where = escape(path) if path is not None else shown_url(entry.url)
    return f"{escape(entry.id):<32}  {escape(state):<22}  {amount:<28}  {where}"
