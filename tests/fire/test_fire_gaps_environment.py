"""Ways through the environment of the store that no other test takes: gates, children, maps, guests' signatures."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lmdb
import pytest

from engine.errors import EngineClosed, ForkedProcess, NoSpace, StaleEpoch, StoreUnusable
from engine.store import environment as module
from engine.store.codec import Table
from engine.store.environment import Environment, _Gate, _signed
from engine.store.state_store import StateStore
from engine.store.txn import Txn
from tests.store.helpers import entry, open_store, spoil


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


@pytest.fixture
def opened(root: str) -> Iterator[StateStore]:
    """An open store with one entry."""
    store = open_store(root)
    store.add(entry("a"))
    yield store
    store.close()


def test_one_alone_waits_for_another() -> None:
    gate, order = _Gate(), []
    inside, go = threading.Event(), threading.Event()

    def first() -> None:
        with gate.alone():
            inside.set()
            assert go.wait(30)
            order.append("first")

    def then(name: str, enter: Callable[[], Any]) -> None:
        with enter():
            order.append(name)

    threads = [threading.Thread(target=first)]
    threads[0].start()
    assert inside.wait(30)
    threads += [
        threading.Thread(target=then, args=("alone", gate.alone)),
        threading.Thread(target=then, args=("with", lambda: gate)),
    ]
    for thread in threads[1:]:
        thread.start()
    go.set()
    for thread in threads:
        thread.join(30)

    assert order[0] == "first"
    assert sorted(order[1:]) == ["alone", "with"]


def test_of_calls_run_again_alone_each_has_its_own_end(opened: StateStore) -> None:
    def refuses() -> None:
        raise StaleEpoch("an earlier epoch")

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    refused, failed, done = opened._environment.write_together([refuses, full, lambda: opened.add(entry("b"))])

    assert isinstance(refused, StaleEpoch)
    assert isinstance(failed, NoSpace)
    assert done == opened.get("b")


def test_l4_in_a_child_nothing_is_read_and_closing_does_nothing(opened: StateStore) -> None:
    environment = opened._environment
    own, environment._pid = environment._pid, -1
    try:
        environment.close()
        with pytest.raises(ForkedProcess):
            opened.get("a")
    finally:
        environment._pid = own

    assert opened.get("a") is not None


def _always_full(_txn: Txn) -> None:
    raise lmdb.MapFullError("mdb_put: MDB_MAP_FULL")


@pytest.mark.parametrize("why", ["largest", "grown in vain"])
def test_l1_a_map_that_stays_full_is_no_space(opened: StateStore, monkeypatch: pytest.MonkeyPatch, why: str) -> None:
    if why == "largest":
        monkeypatch.setattr(module, "MAP_BYTES_MAX", 1)
    else:
        monkeypatch.setattr(Environment, "_grow", lambda _self, _error: None)

    with pytest.raises(NoSpace, match=r"largest size|still full"):
        opened._environment.write(_always_full)
    assert opened.get("a") is not None


def test_a_map_that_another_process_grew_is_adopted(opened: StateStore) -> None:
    tries: list[int] = []

    def resized_once(_txn: Txn) -> int:
        tries.append(1)
        if len(tries) == 1:
            raise lmdb.MapResizedError("mdb_txn_begin: MDB_MAP_RESIZED")
        return len(tries)

    assert opened._environment.read(resized_once) == 2


def test_it_is_not_opened_again_when_another_thread_did_so(opened: StateStore) -> None:
    environment = opened._environment
    raw = environment._raw
    environment._reopen(environment._opened - 1)

    assert environment._raw is raw


@pytest.mark.parametrize("signed", [True, False])
def test_l9_a_number_that_a_guest_signed_is_not_the_owners(opened: StateStore, signed: bool) -> None:
    environment = opened._environment
    number = environment._environment().info()["last_txnid"]
    if signed:
        opened._environment.write(lambda txn: module._sign(txn, number))

    assert environment._landed(number) is not signed
    assert not environment._landed(number + 100)


@pytest.mark.parametrize("signed", [True, False])
def test_l9_a_guests_commit_took_place_when_its_number_is_signed(opened: StateStore, signed: bool) -> None:
    environment = opened._environment
    number = environment._environment().info()["last_txnid"]
    if signed:
        environment.write(lambda txn: module._sign(txn, number))
    environment._guest = True
    landed = environment._landed(number)
    environment._guest = False

    assert landed is signed


def test_l9_damaged_signatures_are_noted_and_count_as_none(root: str) -> None:
    store = open_store(root)
    store._environment.write(lambda txn: module._sign(txn, 7))
    assert store._environment.read(_signed) == [7]
    store.close()
    spoil(root, Table.INBOX, lambda key: key == module.GUESTS_KEY)
    store = open_store(root)

    assert store._environment.read(_signed) == []
    assert store.take_damages()
    store.close()


@pytest.mark.parametrize("full", [True, False])
def test_d4_an_input_output_error_on_a_full_disk_is_no_space(
    opened: StateStore, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    def fails(_txn: Txn) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(module, "FULL_BELOW_BYTES", 2**62 if full else 0)

    with pytest.raises(NoSpace if full else StoreUnusable) as caught:
        opened._environment.write(fails)
    assert isinstance(caught.value, NoSpace) == full


def test_l1_a_store_that_could_not_be_opened_again_says_so(opened: StateStore, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = opened._environment

    def fails() -> None:
        raise StoreUnusable("the disk is gone")

    with monkeypatch.context() as patch:
        patch.setattr(environment, "_open", fails)
        with pytest.raises(StoreUnusable, match="the disk is gone"):
            environment._reopen(environment._opened)
    with pytest.raises(StoreUnusable, match="could not be opened again"):
        environment.reader_check()

    assert opened.get("a") is not None, "each call tries to open it again"


def test_a_closed_store_is_not_opened_again(root: str) -> None:
    store = open_store(root)
    store.close()
    with pytest.raises(EngineClosed):
        store._environment._reopen(store._environment._opened)
