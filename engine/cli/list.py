"""``list``: one line for each entry, in order of adding; works while another process runs the engine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

from engine.cli import status
from engine.cli.console import PROGRAM, escape, print_json, print_line, warn
from engine.cli.library import PAGE_ENTRIES, has_store, open_store, tell_without_store, worker_of
from engine.cli.outcome import bytes_total, error_json
from engine.cli.text import progress, shown_url, size, state_text
from engine.model.records import DownloadEntry
from engine.model.states import State
from engine.store.state_store import StateStore


def run(arguments: argparse.Namespace) -> int:
    """Print the entries. A root without a store is an empty library. Raises UnknownGroup, StoreError."""
    if not has_store(arguments.root):
        tell_without_store(arguments.root)
        return status.COMPLETE
    with open_store(arguments.root) as store:
        cut_off = False
        for entry in _chosen(store, arguments):
            cut_off |= entry.state is State.IN_PROGRESS
            if arguments.json:
                print_json(_as_json(store, entry))
            else:
                print_line(_as_line(store, entry))
        if cut_off and not worker_of(store):
            warn(f"{PROGRAM}: what is in_progress was cut off with its process, and goes on where it was with `run`")
    return status.COMPLETE


def _chosen(store: StateStore, arguments: argparse.Namespace) -> Iterator[DownloadEntry]:
    """The entries asked for: of a group in the order of its places, others in order of adding."""
    wanted = State(arguments.state) if arguments.state else None
    if arguments.group is not None:
        found = _of_group(store, arguments.scope or "", arguments.group)
        return (entry for entry in found if wanted in {None, entry.state})
    if arguments.scope is not None:
        return _of_scope(store, arguments.scope, wanted)
    return _all(store, wanted)


def _all(store: StateStore, wanted: State | None) -> Iterator[DownloadEntry]:
    after: str | None = None
    while page := store.list(wanted, after, PAGE_ENTRIES):
        yield from page
        after = page[-1].id


def _of_scope(store: StateStore, scope: str, wanted: State | None) -> Iterator[DownloadEntry]:
    after: str | None = None
    while True:
        page = store.groups.of_scope(scope, wanted, after, PAGE_ENTRIES)
        yield from page.items
        tell_damaged(page.damaged)
        after = page.after
        if after is None:
            return


def _of_group(store: StateStore, scope: str, group_id: str) -> Iterator[DownloadEntry]:
    after: str | None = None
    while True:
        page = store.groups.members(scope, group_id, after=after, limit=PAGE_ENTRIES)
        for member in page.items:
            entry = store.get(member.entry_id)
            if entry is None:
                warn(f"{PROGRAM}: {escape(member.entry_id)} is a member, and there is no such entry")
            else:
                yield entry
        tell_damaged(page.damaged)
        after = page.after
        if after is None:
            return


def tell_damaged(damaged: tuple[str, ...]) -> None:
    """What of a page cannot be read: it is left out, and the rest is shown."""
    for what in damaged:
        warn(f"{PROGRAM}: left out: {escape(what)}")


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
