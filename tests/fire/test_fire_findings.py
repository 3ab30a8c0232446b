"""What the harnesses found, each by a test of its own."""

from __future__ import annotations

import time
from collections.abc import Iterator

import msgspec
import pytest

from engine.errors import BadRecord
from engine.files.filesystem import FileSystem
from engine.files.names import HARMLESS_SUFFIX, NAME_BYTES_MAX, safe_name, with_tag
from engine.model.commands import Command, Mark, Verb, took_place
from engine.model.records import DownloadEntry
from engine.net.fields import disposition_filename, parse_date
from engine.store.codec import decode
from engine.store.lease import LOCK_NAME, read_owner
from engine.store.structure import MARK_NAME, check_structure


@pytest.fixture
def far_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A local time that is not GMT."""
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    parse_date.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    parse_date.cache_clear()


@pytest.mark.usefixtures("far_zone")
@pytest.mark.parametrize(
    "text", ["Sun Nov  6 08:49:37 1994", "Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:37 -0000"]
)
def test_s35_a_date_without_a_zone_is_in_gmt_wherever_the_machine_is(text: str) -> None:
    assert parse_date(text) == 784111777.0


@pytest.mark.parametrize(
    "text",
    [
        "attachment; filename*0=\"a\"; filename*ent; filename*=utf-16''%00a",
        'attachment; filename*0="a"; filename*="b"',
    ],
)
def test_m1_a_disposition_that_pythons_parser_fails_on_names_nothing(text: str) -> None:
    assert disposition_filename(text) == ""


@pytest.mark.parametrize("name", ["a." + "x" * 190, "ä." + "y" * 180, "a" * 195 + ".flac"])
def test_d21_a_tag_makes_no_name_too_long_nor_loses_its_beginning(name: str) -> None:
    tagged = with_tag(name, "1f2e3d4c")

    assert len(tagged.encode()) <= NAME_BYTES_MAX
    assert tagged[0] == name[0]
    assert "-1f2e3d4c" in tagged


@pytest.mark.parametrize("known", [True, False])
def test_m4_a_cut_makes_no_extension_that_a_desktop_acts_on(known: bool) -> None:
    """What is longer than any extension is none; what is left of it behind the cut may be one."""
    extension = "mp3" if known else "exe"
    name = safe_name("a" * 196 + f".{extension}" + "b" * 30)

    assert name.endswith(".mp3" if known else HARMLESS_SUFFIX)
    assert len(name.encode()) <= NAME_BYTES_MAX
    assert with_tag(f"run.exe{HARMLESS_SUFFIX}", "1f2e3d4c") == f"run.exe-1f2e3d4c{HARMLESS_SUFFIX}"


@pytest.mark.parametrize(
    "payload",
    [
        b"\x81\xa2id\xa1\xa4",  # text that is no UTF-8
        b"\x81\xa1\xeb\xc0",  # nor is the name of a field
        b"\x81\xa1x" * 100_000 + b"\xc0",  # deeper than Python's stack
    ],
)
def test_l10_bytes_that_are_no_record_are_a_bad_record(payload: bytes) -> None:
    with pytest.raises(BadRecord):
        decode(payload, DownloadEntry)


@pytest.mark.parametrize("text", [b'{"pid": "\xff"}', b'{"x":' * 200 + b'{"x":' * 600, b'{"\xff": 1}'])
def test_l10_notes_beside_the_store_that_rotted_are_as_if_they_were_not_there(tmp_path: object, text: bytes) -> None:
    files = FileSystem()
    for name in (MARK_NAME, LOCK_NAME):
        with open(f"{tmp_path}/{name}", "wb") as note:
            note.write(text)
    lock = files.open_lock_file(f"{tmp_path}/{LOCK_NAME}")
    assert files.try_lock(lock)
    try:
        assert read_owner(str(tmp_path), files) is None
    finally:
        files.close(lock)
    check_structure(f"{tmp_path}/data.mdb", files, thorough=False)


def test_a_command_about_no_entry_that_names_one_all_the_same_took_no_place() -> None:
    entry = DownloadEntry(id="a", sources=("http://a.example/",), sequence=3)
    command = msgspec.structs.replace(Command(verb=Verb.GC, token="t", id="a"), mark=Mark(3, 1, entry.state))

    assert not took_place(command, entry)
