"""A store that an older version wrote: opened, brought up to date, and refused untouched by who does not know it.

``data/store_v1.mdb.gz`` was written by the last version with schema 1: five entries (one damaged by a flipped bit) of
two scopes, one complete, one half fetched.
"""

from __future__ import annotations

import gzip
import hashlib
import os
from pathlib import Path

import pytest

from engine.config import Config
from engine.errors import StoreTooNew, StoreUnusable
from engine.files.filesystem import FileSystem
from engine.model.groups import GroupRecord, MemberRecord
from engine.model.records import PartPhase
from engine.model.states import Event, Reason, State
from engine.store import schema
from engine.store.schema import SCHEMA_VERSION, peek_version
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.store.helpers import cv, dump, entry, open_store

DATA = Path(__file__).parent / "data"
MAP_BYTES = 1 << 20


@pytest.fixture
def old(root: str) -> str:
    """The root of a store of schema 1."""
    folder = Path(root) / "store"
    folder.mkdir(parents=True)
    (folder / "data.mdb").write_bytes(gzip.decompress((DATA / "store_v1.mdb.gz").read_bytes()))
    return root


def version(root: str, newest: int = SCHEMA_VERSION) -> int:
    return peek_version(os.path.join(root, "store"), MAP_BYTES, FileSystem(), newest=newest)


def fingerprint(root: str) -> str:
    return hashlib.sha256((Path(root) / "store" / "data.mdb").read_bytes()).hexdigest()


def test_a_store_of_schema_1_is_brought_up_to_date(old: str) -> None:
    assert version(old) == 1
    store = open_store(old, Config(map_bytes=MAP_BYTES))
    assert [found.id for found in store.list()] == ["done", "half", "waiting", "paused"]
    assert [found.id for found in store.groups.of_scope("alice").items] == ["done", "waiting"]
    mine = store.groups.of_scope("")
    assert [found.id for found in mine.items] == ["half", "paused"]
    assert len(store.take_damages()) == 1, "the damaged record is told, and in no scope's list"
    store.close()
    assert version(old) == SCHEMA_VERSION == 2


def test_everything_that_was_known_is_known_still(old: str) -> None:
    store = open_store(old, Config(map_bytes=MAP_BYTES))
    done, half, paused = store.get("done"), store.get("half"), store.get("paused")
    assert done is not None
    assert half is not None
    assert paused is not None
    assert (done.state, done.title, done.completed_at, done.scope) == (State.COMPLETED, "Ünïcode", 4.0, "alice")
    assert (half.state, half.attempt_count, half.epoch) == (State.IN_PROGRESS, 1, 1)
    assert (paused.state, paused.state_reason, paused.paused_at) == (State.PAUSED, Reason.USER, 5.0)
    found = store.offline("done")
    assert found is not None
    assert (found.path, found.size, found.device) == ("/media/done", 1 << 20, 0)
    [part] = store.parts("half")
    assert (part.phase, part.chunks_done, part.inode) == (PartPhase.ACTIVE, 3, 12)
    assert store.held_runs("half", 0, 8) == [(0, 2), (5, 1)]
    assert store.cvs("half", 0, 1, first=5) == cv(5)
    assert store.counts()[State.PENDING] == 2, "the damaged one's place in the index stays"
    store.close()


def test_it_works_like_a_new_one_from_then_on(old: str) -> None:
    store = open_store(old, Config(map_bytes=MAP_BYTES))
    members = [MemberRecord(entry_id="done"), MemberRecord(entry_id="new", position=1)]
    store.groups.put(GroupRecord(id="g", scope="alice"), members, replace=False)
    added = store.add(entry("new", scope="alice"))
    assert added.sequence == 6
    assert [found.id for found in store.groups.of_scope("alice").items] == ["done", "waiting", "new"]
    assert store.groups.drop("alice", "g") == ["new"], "what schema 1 has was asked for by itself"
    store.transition("waiting", Event.CANCEL, epoch=1, now=9.0)
    store.remove("waiting")
    assert [found.id for found in store.groups.of_scope("alice").items] == ["done", "new"]
    store.close()


def test_once_migrated_nothing_more_happens_to_it(old: str) -> None:
    open_store(old, Config(map_bytes=MAP_BYTES)).close()
    before = dump(old)
    open_store(old, Config(map_bytes=MAP_BYTES)).close()
    assert dump(old) == before


def test_an_older_version_refuses_the_migrated_store_untouched(old: str) -> None:
    open_store(old, Config(map_bytes=MAP_BYTES)).close()
    before = fingerprint(old)
    with pytest.raises(StoreTooNew, match="schema version 2, this engine knows 1"):
        version(old, newest=1)
    assert fingerprint(old) == before


def test_a_look_at_an_older_store_leaves_it_as_it_is(old: str) -> None:
    before = fingerprint(old)
    assert version(old, newest=1) == 1
    with pytest.raises(StoreUnusable, match="older version"):
        StateStore.open_readonly(old, Config(map_bytes=MAP_BYTES), FileSystem())
    assert fingerprint(old) == before


def test_a_migration_that_dies_half_way_leaves_the_old_version(old: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def half(txn: Txn) -> None:
        step(txn)
        raise OSError("the machine went down")

    step = schema.MIGRATIONS[1]
    monkeypatch.setitem(schema.MIGRATIONS, 1, half)
    with pytest.raises(Exception, match="went down"):
        open_store(old, Config(map_bytes=MAP_BYTES))
    assert version(old) == 1
    monkeypatch.undo()
    store = open_store(old, Config(map_bytes=MAP_BYTES))
    assert [found.id for found in store.groups.of_scope("alice").items] == ["done", "waiting"]
    store.close()
