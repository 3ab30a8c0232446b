"""Records leave out what stands as by default, and what reads only some of their fields agrees with them on that."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from engine.config import Config
from engine.files.filesystem import FileSystem
from engine.model.records import Attempt, DownloadEntry, OfflineEntry, PartRecord
from engine.store import groups, usage
from engine.store.codec import Table, decode, encode, entry_key
from engine.store.entries import PendingLine
from engine.store.state_store import LONG_WALK, StateStore
from tests.store.helpers import entry, open_store, part, spoil

LINES: list[tuple[type[msgspec.Struct], type[msgspec.Struct]]] = [
    (PendingLine, DownloadEntry),
    (usage.EntryLine, DownloadEntry),
    (usage.AttemptLine, Attempt),
    (usage.PartLine, PartRecord),
    (usage.OfflineLine, OfflineEntry),
    (groups._EntryLine, DownloadEntry),
    (groups._PartLine, PartRecord),
]


@pytest.mark.parametrize(("line", "record"), LINES)
def test_a_line_takes_a_field_that_was_left_out_as_its_record_does(
    line: type[msgspec.Struct], record: type[msgspec.Struct]
) -> None:
    whole = {field.name: field for field in msgspec.structs.fields(record)}
    for field in msgspec.structs.fields(line):
        assert field.required == whole[field.name].required, field.name
        assert field.default == whole[field.name].default, field.name


def test_defaults_are_not_written(store: StateStore) -> None:
    plain = DownloadEntry(id="a", sources=("http://h/",))

    assert msgspec.msgpack.decode(encode(plain)) == {"id": "a", "sources": ["http://h/"]}
    assert msgspec.msgpack.decode(encode(part())).keys() <= {
        "folder", "part_name", "final_name", "chunk_bytes", "phase", "length", "inode", "device"
    }  # fmt: skip
    assert decode(encode(plain), DownloadEntry) == plain


def test_a_page_of_lines_is_full_although_some_are_damaged(root: str) -> None:
    """A page that came back empty would be taken for the end of all that waits."""
    store = open_store(root)
    for number in range(6):
        store.add(entry(f"e{number}"))
    store.close()
    bad = {entry_key(f"e{number}") for number in range(3)}
    assert len(spoil(root, Table.ENTRIES, lambda key: key in bad)) == 3
    store = open_store(root)
    try:
        assert [line.id for line in store.pending(0, 2)] == ["e3", "e4"]
        assert [line.id for line in store.pending()] == ["e3", "e4", "e5"]
        assert {damage.key for damage in store.take_damages()} >= {key.hex() for key in bad}
    finally:
        store.close()


class Reluctant(FileSystem):
    """Counts what is given up, or cannot."""

    def __init__(self, error: OSError | None = None) -> None:
        self.released: list[int] = []
        self.error = error

    def release_mapped(self, path: str) -> int:
        if self.error is not None:
            raise self.error
        self.released.append(super().release_mapped(path))
        return self.released[-1]


@pytest.mark.parametrize("error", [None, OSError(13, "no /proc here")])
def test_a_long_walk_lets_go_of_the_pages_it_read(tmp_path: Path, error: OSError | None) -> None:
    files = Reluctant(error)
    with closing(StateStore.open(str(tmp_path / "lib"), Config(), files, now=1.0)) as store:
        store.add_many(entry(f"{number}") for number in range(LONG_WALK + 1))

        short = store.pending(0, LONG_WALK - 1)
        after_short = list(files.released)
        whole = [store.pending() for _ in range(2)]

        assert (len(short), after_short) == (LONG_WALK - 1, [])
        assert [[line.id for line in lines] for lines in whole] == [[f"{n}" for n in range(LONG_WALK + 1)]] * 2
        assert [released >= Config().map_bytes for released in files.released] == ([] if error else [True, True])
