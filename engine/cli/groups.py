"""``groups``: albums, playlists, seasons … and how far each is; works while another process runs the engine."""

from __future__ import annotations

import argparse
from collections.abc import Iterator

import msgspec

from engine.cli import status
from engine.cli.console import escape, print_json, print_line
from engine.cli.library import PAGE_ENTRIES, has_store, open_store, tell_without_store
from engine.cli.list import tell_damaged
from engine.cli.text import progress
from engine.model.groups import GroupSort, GroupStatus
from engine.model.states import State
from engine.store.state_store import StateStore


def run(arguments: argparse.Namespace) -> int:
    """Print the groups named, or all of the scope. Raises UnknownGroup, StoreError."""
    if not has_store(arguments.root) and not arguments.ids:
        tell_without_store(arguments.root)
        return status.COMPLETE
    with open_store(arguments.root) as store:
        for group in _chosen(store, arguments):
            if arguments.json:
                print_json(msgspec.to_builtins(group))
            else:
                print_line(_as_line(group))
    return status.COMPLETE


def _chosen(store: StateStore, arguments: argparse.Namespace) -> Iterator[GroupStatus]:
    for group_id in dict.fromkeys(arguments.ids):
        yield store.groups.status(arguments.scope, group_id)
    after: str | None = None
    while not arguments.ids:
        page = store.groups.page(arguments.scope, GroupSort(arguments.sort), after, PAGE_ENTRIES)
        for group in page.items:
            yield store.groups.status(arguments.scope, group.id)
        tell_damaged(page.damaged)
        after = page.after
        if after is None:
            return


def _as_line(found: GroupStatus) -> str:
    group = found.group
    there = f"{found.counts.get(State.COMPLETED, 0)} of {found.members}"
    amount = progress(found.bytes_done, None if found.sizes_unknown else found.bytes_total)
    kind = f"{group.kind} " if group.kind else ""
    return escape(f"{group.id:<32}  {found.state.value:<12}  {there:<12}  {amount:<30}  {kind}{group.title}")
