"""What a request says of the kind of thing it wants, and of a source that changes."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from engine.config import Config
from engine.control.credentials import Credentials
from engine.control.requests import changes_of, entry_of, merge
from engine.errors import InvalidRequest
from engine.model.records import DownloadEntry, DownloadRequest, OnChange, PartRecord, Representation

URL = "http://host.example/film.mkv"


def entry(**fields: Any) -> DownloadEntry:
    return entry_of(DownloadRequest(url=URL, id="film", **fields), Config(), 5.0)


def test_media_types_are_on_record_in_lower_case() -> None:
    assert entry(media_types=["Video/MP4", "audio/*"]).media_types == ("video/mp4", "audio/*")
    assert entry().media_types == ()


@pytest.mark.parametrize(
    "given", ["video/mp4", [""], ["video"], ["a/b;c=d"], [5], ["*/*"] * 33, [None], [b"video/mp4"]]
)
def test_media_types_that_are_none_are_named(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="media_types"):
        entry(media_types=given)


@pytest.mark.parametrize("given", ["restart", "fail", OnChange.FAIL])
def test_on_change_may_be_text(given: Any) -> None:
    assert entry(on_change=given).on_change is OnChange(given)


@pytest.mark.parametrize("given", ["", "FAIL", "ignore", OnChange("ignore")])
def test_an_unknown_on_change_is_named(given: Any) -> None:
    with pytest.raises(InvalidRequest, match="on_change must be restart or fail"):
        entry(on_change=given)


def test_the_newer_request_counts() -> None:
    before = entry(media_types=["video/*"], on_change="fail")
    merged = merge(before, entry(media_types=["audio/*"]))
    assert changes_of(before, merged) == {"media_types": ("audio/*",), "on_change": OnChange.RESTART}


def test_records_of_older_versions_still_decode() -> None:
    """They have none of these fields."""
    old_entry = {"id": "a", "sources": [URL]}
    found = msgspec.convert(old_entry, DownloadEntry)
    assert (found.media_types, found.on_change) == ((), OnChange.RESTART)
    old_part = {"folder": "/f", "part_name": "p", "final_name": "n", "chunk_bytes": 1024,
                "representation": {"length": 5, "last_modified": "Thu, 01 Jan 2026 00:00:00 GMT"}}  # fmt: skip
    part = msgspec.convert(old_part, PartRecord)
    assert part.representation.comparable
    assert (part.representation.other_etags, part.representation.digests) == ((), {})


@pytest.mark.parametrize(
    ("said", "comparable"),
    [
        (Representation(length=5, etag='"a"', young=True, last_modified="x"), True),
        (Representation(length=5, last_modified="x"), True),
        (Representation(length=5, last_modified="x", young=True), False),
        (Representation(last_modified="x"), False),
        (Representation(length=5, digests={"sha256": "0"}), False),
    ],
)
def test_what_can_be_compared(said: Representation, comparable: bool) -> None:
    assert said.comparable is comparable


def test_credentials_that_the_host_will_give_are_not_missing() -> None:
    needing = DownloadEntry(id="a", sources=(URL,), secret_header_names=("cookie",))
    assert Credentials().missing(needing)
    assert not Credentials(host_gives=True).missing(needing)
