"""``show``: all that is known of one entry; works while another process runs the engine."""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Iterator

import msgspec

from engine.cli import status
from engine.cli.console import escape, print_json, print_line
from engine.cli.library import current_path, held_ranges, open_store, worker_of
from engine.cli.outcome import bytes_total
from engine.cli.text import fault_text, moment, progress, shown_url, size, state_text
from engine.control.explain import Explanation, explain
from engine.errors import UnknownEntry
from engine.model.line_policy import ANY_LINE, LinePolicy, allowed
from engine.model.lines import UNKNOWN_LINE
from engine.model.records import Attempt, DownloadEntry, OfflineEntry, PartRecord
from engine.store.state_store import StateStore

ATTEMPTS_SHOWN = 5
RANGES_SHOWN = 8


class _View(msgspec.Struct, frozen=True):
    """One look at an entry. ``held``: the byte ranges each part's bitmap claims; ``pid``: the engine's, 0 if none."""

    entry: DownloadEntry
    parts: tuple[PartRecord, ...]
    held: list[list[tuple[int, int]]]
    offline: OfflineEntry | None
    pid: int


def run(arguments: argparse.Namespace) -> int:
    """Print the entry. Raises UnknownEntry, StoreError."""
    with open_store(arguments.root) as store:
        view = _look(store, arguments.id)
    if arguments.json:
        print_json(_as_json(view))
    else:
        for line in _as_lines(view):
            print_line(line)
    return status.COMPLETE


def _look(store: StateStore, entry_id: str) -> _View:
    entry = store.get(entry_id)
    if entry is None:
        raise UnknownEntry(f"there is no entry {entry_id}")
    parts, held = held_ranges(store, entry)
    return _View(entry, parts, held, store.offline(entry_id), worker_of(store))


def _as_json(view: _View) -> dict[str, object]:
    return {
        **_fields(view.entry),
        "url": view.entry.url,
        "parts": [_part_json(part, held) for part, held in zip(view.parts, view.held, strict=True)],
        "offline": None if view.offline is None else _fields(view.offline),
        "explanation": msgspec.to_builtins(_explained(view)),
    }


def _explained(view: _View) -> Explanation:
    """By what is on record: of the line only its engine knows, but the hours are the same for everybody."""
    hours = LinePolicy(hours=view.entry.line.hours)
    held = allowed(hours, UNKNOWN_LINE, time.time(), here=True)
    return explain(view.entry, working=bool(view.pid), held=held)


def _fields(record: msgspec.Struct) -> dict[str, object]:
    """All of them, also those that stand as by default, which `to_builtins` leaves out of a record."""
    return {name: _builtins(value) for name, value in msgspec.structs.asdict(record).items()}


def _builtins(value: object) -> object:
    if isinstance(value, msgspec.Struct):
        return _fields(value)
    if isinstance(value, tuple):
        return [_builtins(item) for item in value]
    if isinstance(value, dict):
        return {name: _builtins(item) for name, item in value.items()}
    return msgspec.to_builtins(value)


def _part_json(part: PartRecord, held: list[tuple[int, int]]) -> dict[str, object]:
    """Every field of the record; what is done is counted from the same bitmap that ``held`` shows."""
    return {
        **_fields(part),
        "path": current_path(part),
        "final_path": os.path.join(part.folder, part.final_name),
        "chunks_done": sum(-(-(end - start) // part.chunk_bytes) for start, end in held),
        "bytes_done": sum(end - start for start, end in held),
        "held": [list(span) for span in held],
    }


def _as_lines(view: _View) -> Iterator[str]:
    entry, why = view.entry, _explained(view)
    done = sum(end - start for held in view.held for start, end in held)
    yield f"id          {escape(entry.id)}"
    yield f"url         {shown_url(entry.url)}"
    for mirror in entry.sources[1:]:
        yield f"mirror      {shown_url(mirror)}"
    for blame in entry.blamed:
        yield f"bad source  {shown_url(blame.url)} {escape(blame.reason)}"
    yield f"state       {state_text(entry)} since {moment(entry.updated_at)}"
    yield f"why         {escape(why.text)}"
    if view.pid:
        yield f"engine      process {view.pid}"
    yield f"progress    {progress(done, bytes_total(entry, view.parts))}"
    yield from _request_lines(entry)
    if view.offline is not None:
        yield f"file        {escape(view.offline.path)}"
        yield f"blake3      {view.offline.blake3}"
    if entry.last_error is not None:
        yield f"last error  {moment(entry.last_error.at)} {fault_text(entry.last_error)}"
    for part, held in zip(view.parts, view.held, strict=True):
        yield from _part_lines(part, held)
    for attempt in entry.attempts[-ATTEMPTS_SHOWN:]:
        yield _attempt_line(attempt)


def _request_lines(entry: DownloadEntry) -> Iterator[str]:
    yield f"asked       {moment(entry.created_at)}, durability {escape(entry.durability.value)}"
    if entry.destination:
        yield f"goes to     {escape(entry.destination)}{'/' if entry.destination_is_folder else ''}"
    if entry.line != ANY_LINE:
        yield f"line        {escape(', '.join(_policy(entry.line)))}"
    if entry.next_retry_at is not None:
        yield f"next try    {moment(entry.next_retry_at)}"
    if entry.secret_header_names:
        yield f"secrets     {escape(', '.join(entry.secret_header_names))} (values are not stored)"
    for name, digest in entry.expect.items():
        yield f"expected    {escape(name)} {escape(digest)}"


def _policy(policy: LinePolicy) -> Iterator[str]:
    if policy.allow_metered is not None:
        yield "metered allowed" if policy.allow_metered else "metered denied"
    if policy.metered_bytes_max is not None:
        yield f"at most {size(policy.metered_bytes_max)} metered" if policy.metered_bytes_max else "any size metered"
    if policy.interfaces:
        yield f"only through {' or '.join(policy.interfaces)}"
    if policy.hours:
        yield f"only at {policy.hours}"


def _part_lines(part: PartRecord, held: list[tuple[int, int]]) -> Iterator[str]:
    yield f"part {part.index}      {escape(current_path(part))}"
    yield f"            {part.phase.value}, generation {part.generation}, chunks of {size(part.chunk_bytes)}"
    shown = ", ".join(f"{start}-{end}" for start, end in held[:RANGES_SHOWN]) or "nothing yet"
    more = f" and {len(held) - RANGES_SHOWN} more (see --json)" if len(held) > RANGES_SHOWN else ""
    yield f"            holds {shown}{more}"
    known = part.representation
    facts = [known.etag and f"etag {known.etag}", known.last_modified, known.content_type, known.ranges and "ranges"]
    yield f"            source: {escape(', '.join(str(fact) for fact in facts if fact)) or 'told nothing of itself'}"


def _attempt_line(attempt: Attempt) -> str:
    ended = fault_text(attempt.error) if attempt.error is not None else "ended in order"
    seconds = max(0.0, attempt.ended_at - attempt.started_at)
    took = f"{size(attempt.bytes_fetched)} in {seconds:.1f} s"
    return f"attempt {attempt.number:<3} {moment(attempt.started_at)} {took}: {ended}"
