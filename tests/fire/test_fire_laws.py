"""Laws of the store and the files that no other test looks at: fault catalogue H10, L3, L5, L13, L17, L19-L21, M25."""

from __future__ import annotations

import ast
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lmdb
import msgspec
import pytest

import engine.store
from engine.errors import ProtocolViolation, StoreBusy, StoreCorrupt, StoreError
from engine.model.chunks import BITS_PER_PAGE, CV_BYTES, CVS_PER_PAGE
from engine.model.commands import Command, Verb
from engine.model.states import State
from engine.net.head import scan_head
from engine.store import inbox
from tests.fire.fuzz_fields import CONFIG
from tests.store.helpers import add_running, commit, dump, entry, open_store
from tests.support.mounts import TinyTmpfs

STORE = Path(str(engine.store.__file__)).parent


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


@pytest.mark.parametrize("path", sorted(STORE.glob("*.py")), ids=lambda path: path.stem)
def test_l3_l5_a_transaction_is_one_call_on_one_thread(path: Path) -> None:
    """Nothing in the store can wait in the middle, and few files begin transactions, each ended where it began."""
    tree = ast.parse(path.read_text())
    waits = [node for node in ast.walk(tree) if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncWith)]
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    begun = [  # lmdb's own takes no positional argument
        call
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and ast.unparse(call.func).endswith(".begin") and not call.args
    ]

    assert waits == []
    assert "trio" not in imported
    assert begun == [] or path.stem in {"creation", "environment", "opening", "schema"}


@pytest.mark.parametrize("when", ["closed", "open"])
def test_l13_a_lock_file_that_was_deleted_costs_nothing(root: str, when: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    if when == "open":
        os.unlink(f"{root}/store/lock.mdb")
    store.add(entry("b"))
    store.close()
    if when == "closed":
        os.unlink(f"{root}/store/lock.mdb")

    store = open_store(root)

    assert [found.id for found in store.list()] == ["a", "b"]
    store.close()


def _views(value: Any) -> list[Any]:
    """The views into memory inside a value."""
    if isinstance(value, memoryview):
        return [value]
    if isinstance(value, msgspec.Struct):
        value = [getattr(value, name) for name in value.__struct_fields__]
    if isinstance(value, dict):
        value = [*value, *value.values()]
    return [view for part in value for view in _views(part)] if isinstance(value, list | tuple | set) else []


def test_l17_nothing_that_is_read_is_a_view_into_the_map(root: str) -> None:
    store = open_store(root)
    add_running(store)
    store.commit_chunks([commit("a", range(30))])
    store.add(entry("b"))
    store._environment.write(lambda txn: inbox.append(txn, [Command(verb=Verb.PAUSE, token="t", id="a")], 10))
    readers: list[Callable[[], Any]] = [
        lambda: store.get("a"),
        lambda: store.parts("a"),
        lambda: store.list(State.IN_PROGRESS),
        store.ids,
        store.pending,
        lambda: store.held_runs("a", 0, 100),
        lambda: store.cvs("a", 0, 30),
        lambda: bytes(store.bitmap("a", 0, 100)),
        store.suspects,
        lambda: list(store.usage.pages()),
        lambda: store.inbox.waiting(0, 10),
    ]
    read = [reader() for reader in readers]
    store.close()

    assert all(read)
    assert _views(read) == []


def test_l19_a_commit_into_a_huge_bitmap_rewrites_one_small_page(root: str) -> None:
    chunks = 100_000  # of 1 MiB: about 100 GiB
    store = open_store(root)
    add_running(store, chunks=chunks)
    store.commit_chunks([commit("a", range(0, chunks, 7), bit_count=chunks)])
    store.close()
    before = dump(root)
    store = open_store(root)
    store.commit_chunks([commit("a", [50_002], bit_count=chunks)])
    store.close()
    after = dump(root)
    rewritten = [value for place, value in after.items() if place[0] in {"BITS", "CVS"} and before.get(place) != value]

    assert len(rewritten) == 2
    assert max(map(len, rewritten)) <= max(BITS_PER_PAGE // 8, CVS_PER_PAGE * CV_BYTES) + 16 <= 4096 + 16


class _Full:
    """An environment whose reader slots are all taken, until so many dead ones were cleared."""

    def __init__(self, raw: lmdb.Environment, dead: int) -> None:
        self._raw = raw
        self._full = True
        self._dead = dead

    def begin(self, **options: Any) -> Any:
        if self._full:
            raise lmdb.ReadersFullError("mdb_txn_begin: MDB_READERS_FULL")
        return self._raw.begin(**options)

    def reader_check(self) -> int:
        self._full = self._dead == 0
        return self._dead

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


def test_l20_when_all_reader_slots_are_taken_those_of_the_dead_are_freed(root: str) -> None:
    store = open_store(root)
    store.add(entry("a"))
    raw = store._environment._raw
    assert raw is not None
    store._environment._raw = _Full(raw, dead=1)  # type: ignore[assignment]
    ids = store.ids()
    store._environment._raw = _Full(raw, dead=0)  # type: ignore[assignment]
    with pytest.raises((StoreBusy, StoreError)):
        store.ids()
    store._environment._raw = raw

    assert ids == ["a"]
    store.close()


def _swapped(data: bytes) -> bytes:
    """As a machine of the other byte order wrote its numbers."""
    return b"".join(data[at : at + 4][::-1] for at in range(0, len(data), 4))


def _of_32_bits(data: bytes) -> bytes:
    """With the shorter page header of a machine whose addresses have 32 bits."""
    return data[4:] + bytes(4)


@pytest.mark.parametrize("foreign", [_swapped, _of_32_bits])
def test_l21_a_file_of_another_kind_of_machine_is_refused_untouched(
    root: str, foreign: Callable[[bytes], bytes]
) -> None:
    open_store(root).close()
    data = Path(root) / "store" / "data.mdb"
    content = foreign(data.read_bytes())
    data.write_bytes(content)

    with pytest.raises(StoreCorrupt):
        open_store(root)
    assert data.read_bytes() == content


def test_h10_a_store_in_memory_works_like_any_other(tiny_tmpfs: Callable[[int], TinyTmpfs]) -> None:
    root = str(Path(tiny_tmpfs(64 << 20).path) / "library")
    store = open_store(root)
    add_running(store)
    store.commit_chunks([commit("a", range(30))])
    store.close()
    store = open_store(root)

    assert store.held_runs("a", 0, 100) == [(0, 30)]
    store.close()


@pytest.mark.parametrize("line", [b"X: \x1b[31m\rred", b"\x1b]0;title\x07: 1", b"HTTP/9 \x1b[2J"])
def test_m25_what_a_server_sends_is_escaped_where_it_is_told(line: bytes) -> None:
    block = line + b"\r\n\r\n" if line.startswith(b"HTTP") else b"HTTP/1.1 200 OK\r\n" + line + b"\r\n\r\n"

    with pytest.raises(ProtocolViolation) as caught:
        scan_head(block, CONFIG)

    assert str(caught.value).isprintable()
