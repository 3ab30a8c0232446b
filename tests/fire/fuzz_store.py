"""Fuzz targets for what is read back: documents, records, values in a real store, commands of the inbox."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cache
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree as ET

import lmdb
import msgspec

from engine.config import Config
from engine.errors import BadRecord, EngineError, InvalidRequest
from engine.files.filesystem import FileSystem
from engine.files.names import FOLDERS_MAX
from engine.media.metalink import FILES_MAX, requests_from_metalink
from engine.model.chunks import CV_BYTES
from engine.model.commands import COMMAND_FORM, Command, CommandResult, Mark, Verb, is_gone, took_place
from engine.model.groups import GroupRecord, MemberRecord
from engine.model.records import PIECES_MAX, DownloadEntry, DownloadRequest, OfflineEntry, PartRecord
from engine.model.states import State
from engine.store import entries, groups, inbox, links, pages, parts, quotas, scopes, suspects, tombstones, usage
from engine.store.codec import KEY_SIZES, Table, decode, encode, seal, unseal
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.fire.fuzz_fields import check_folder, check_name, rng_of

_FOLDER = "/media/here/"
_SPACE = "{urn:ietf:params:xml:ns:metalink}"


def metalink(data: bytes) -> None:
    """A Metalink document: refused, or as many requests as it lists files, each for a safe name in the folder given."""
    template = DownloadRequest(url="", destination=_FOLDER)
    try:
        requests = requests_from_metalink(data, template=template)
    except InvalidRequest:
        return
    assert 0 < len(requests) <= FILES_MAX
    root = ET.fromstring(data)
    assert len(requests) == len(root.findall(f"{_SPACE}file"))
    places = set()
    for request in requests:
        assert request.destination is not None
        name = request.destination.removeprefix(_FOLDER)
        assert len(name) < len(request.destination)
        *folders, last = name.split("/")
        check_name(last)
        assert len(folders) <= FOLDERS_MAX
        for folder in folders:
            check_folder(folder)
        places.add(name)
        assert request.url.lower().startswith(("http://", "https://"))
        if request.pieces is not None:
            assert 0 < len(request.pieces.digests) <= PIECES_MAX * 64
            assert request.pieces.piece_bytes > 0
        for value in request.expect.values():
            bytes.fromhex(value)
    assert len(places) == len(requests)


KINDS: tuple[type[msgspec.Struct], ...] = (
    DownloadEntry,
    PartRecord,
    OfflineEntry,
    Command,
    CommandResult,
    GroupRecord,
    MemberRecord,
    tombstones.Tombstone,
    suspects.SuspectGroup,
    usage.EntryLine,
    usage.PartLine,
    parts.UnsyncedRecord,
    links.LinkRecord,
    usage.Counters,
    quotas.QuotaRecord,
)
_KEY = bytes(16)


def records(data: bytes) -> None:
    """A record: BadRecord, or a value that is written again as it is and can be shown; a changed one has a bad sum."""
    for kind in KINDS:
        try:
            value = decode(data, kind)
        except BadRecord:
            continue
        again = encode(value)
        assert encode(decode(again, kind)) == again
        assert isinstance(repr(value), str)
    sealed = seal(Table.ENTRIES, _KEY, data)
    assert bytes(unseal(Table.ENTRIES, _KEY, sealed)) == data
    changed = bytearray(sealed)
    changed[rng_of(data).randrange(len(changed))] ^= 1 << rng_of(data + b"x").randrange(8)
    for table, key, stored in (
        (Table.ENTRIES, _KEY, bytes(changed)),
        (Table.PARTS, _KEY, sealed),
        (Table.ENTRIES, b"1" * 16, sealed),
        (Table.ENTRIES, _KEY, sealed[:-1]),
    ):
        try:
            unseal(table, key, stored)
        except BadRecord:
            continue
        raise AssertionError(f"{table} {key!r} {stored!r} is believed")


def commands(data: bytes) -> None:
    """A command of the inbox: not decoded, not understood, or one whose fate can always be told from any entry."""
    try:
        command = decode(data, Command)
    except BadRecord:
        return
    assert command.understood == (command.verb in list(Verb) and command.form <= COMMAND_FORM)
    rng = rng_of(data)
    sequence = rng.choice((0, 3))
    state = rng.choice(list(State))
    entry = rng.choice(
        (None, DownloadEntry(id="a", sources=("http://a/",), sequence=3, state=state, epoch=rng.choice((1, 2))))
    )
    for mark in (None, command.mark, Mark(sequence, 1, rng.choice(list(State)), 0.0)):
        if not command.understood:
            continue
        marked = msgspec.structs.replace(command, mark=mark)
        gone, took = is_gone(marked, entry), took_place(marked, entry)
        assert isinstance(gone, bool)
        assert isinstance(took, bool)
        assert mark is not None or not (gone or took)
    assert decode(encode(command), Command) == command or b"\xca" in data or b"\xcb" in data  # NaN is not itself


class _Undo(Exception):
    """Takes a write back: each input finds the store as it was."""


_BITS = 40


def _readers() -> tuple[Callable[[Txn], Any], ...]:
    """Everything that is read of a store while it is opened, listed and worked with."""
    return (
        lambda txn: [entries.find(txn, name) for name in "ab"],
        lambda txn: entries.page(txn, None, None, 10),
        lambda txn: [entries.page(txn, state, None, 10) for state in State],
        entries.pending,
        entries.counts,
        entries.indexes_sound,
        entries.newest_sequence,
        lambda txn: entries.find_offline(txn, "b"),
        lambda txn: list(entries.of_scope(txn, "")),
        lambda txn: parts.all_of(txn, "a"),
        parts.unsynced,
        parts.damaged,
        _sound_bits,
        _sound_cvs,
        suspects.read,
        tombstones.all_of,
        lambda txn: inbox.waiting(txn, 0, 10),
        lambda txn: inbox.result_of(txn, 1),
        lambda txn: links.groups_of(txn, "a"),
        links.leaving,
        lambda txn: groups.status(txn, "", "g"),
        lambda txn: scopes.page(txn, "", None, None, 10),
        lambda txn: scopes.damaged(txn, ""),
        usage.counters,
        lambda txn: usage.page(txn, b"", 10, False),
        lambda txn: usage.of_scope(txn, ""),
        quotas.all_of,
        entries.rebuild_indexes,
    )


def _sound_bits(txn: Txn) -> None:
    bitmap = pages.read_bitmap(txn, "a", 0, _BITS)
    runs = pages.read_runs(txn, "a", 0, _BITS)
    assert list(bitmap.runs()) == runs
    assert bitmap.held == sum(count for _, count in runs) <= _BITS


def _sound_cvs(txn: Txn) -> None:
    assert len(pages.read_cvs(txn, "a", 0, 0, 5)) == 5 * CV_BYTES


@cache
def _store() -> tuple[tempfile.TemporaryDirectory[str], StateStore, MappingProxyType[Table, tuple[bytes, ...]]]:
    from tests.store.helpers import add_running, commit, entry, offline  # here: the other targets need no LMDB

    folder = tempfile.TemporaryDirectory(prefix="fuzz-store-", dir="/dev/shm")
    store = StateStore.open(folder.name, Config(), FileSystem(), now=100.0)
    add_running(store, "a", 100)
    store.commit_chunks([commit("a", range(10))])
    store.add(entry("b"))
    store.add(entry("c"))
    store._environment.write(lambda txn: _fill(txn, offline("b")))
    keys = store._environment.read(lambda txn: {table: tuple(txn.keys(table)) for table in Table})
    return folder, store, MappingProxyType(keys)


def _fill(txn: Txn, offline: OfflineEntry) -> None:
    entries.put_offline(txn, offline)
    groups.put(txn, GroupRecord(id="g", title="G"), [MemberRecord(entry_id="a", volume=1, position=1)], replace=True)
    inbox.append(txn, [Command(verb=Verb.PAUSE, token="t", id="a")], 10)
    tombstones.bury(txn, "c", keep_file=False)
    quotas.put(txn, "", 5)


def store(data: bytes) -> None:
    """A value in the store, with a proper checksum: every reader gives an engine's error or something sound."""
    _, opened, keys = _store()
    rng = rng_of(data)
    table = list(Table)[data[0] % len(Table)] if data else Table.META
    size = KEY_SIZES.get(table, 8)
    key = rng.choice([*keys[table], bytes(size), b"\xff" * size, data[1 : 1 + size] or b"k"])

    def work(txn: Txn) -> None:
        payload = data[1:]
        kept = txn.get(table, key) if rng.random() < 0.5 else None
        if kept:
            at = rng.randrange(len(kept))
            payload = kept[:at] + payload[:4] + kept[at + rng.choice((0, 1, len(payload[:4]))) :]
        txn.put(table, key, payload)
        for reader in _readers():
            try:
                reader(txn)
            except (EngineError, lmdb.Error):  # the latter is a StoreCorrupt outside
                continue
        raise _Undo

    try:
        opened._environment.write(work)
    except (_Undo, EngineError):
        opened.take_damages()
