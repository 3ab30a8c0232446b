"""Every table harmed in every way, and all that reads or writes it: only the engine's errors come, and it is noted."""

from __future__ import annotations

from pathlib import Path

import pytest

from engine.store.codec import Table
from tests.fire.support_damage import READERS, WRITERS, fill, harm, refusals
from tests.store.helpers import open_store


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


def test_l10_unharmed_nothing_refuses(root: str) -> None:
    store = open_store(root)
    fill(store)

    assert list(refusals(store, READERS)) == []
    assert store.take_damages() == ()
    store.close()


@pytest.mark.parametrize("how", ["rot", "strange", "gone"])
@pytest.mark.parametrize("table", Table, ids=lambda table: table.name.lower())
def test_l10_l15_what_is_harmed_is_read_as_harmed(root: str, table: Table, how: str) -> None:
    store = open_store(root)
    fill(store)
    store = harm(store, root, table, how)

    refused = set(refusals(store, READERS))

    assert how != "rot" or refused <= ONE_RECORD  # where many are read, a harmed one is left out
    assert how == "gone" or store.take_damages() or refused or table in NOT_READ
    store.close()


ONE_RECORD = {"members", "find", "offline", "parts", "cvs", "status", "members_there"}
NOT_READ = {Table.META, Table.SORTED, Table.BITS}  # any bytes are bits


@pytest.mark.parametrize("how", ["rot", "strange", "gone"])
@pytest.mark.parametrize("table", Table, ids=lambda table: table.name.lower())
def test_l10_l15_what_is_harmed_can_be_written_or_refuses(root: str, table: Table, how: str) -> None:
    store = open_store(root)
    fill(store)
    store = harm(store, root, table, how)

    refused = set(refusals(store, WRITERS))
    read = set(refusals(store, READERS))

    assert "add" not in refused or how == "strange"
    assert read <= set(READERS) - {"counts", "ids"}
    store.close()
