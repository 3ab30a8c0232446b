"""Fields of a request that have another type than declared: taken where the meaning is plain, otherwise named."""

from __future__ import annotations

from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from engine.config import Config
from engine.control.requests import FIELD_TYPES, derive_id, entry_of, split_fields
from engine.errors import InvalidRequest
from engine.model.records import DownloadEntry, DownloadRequest, Durability

URL = "http://host.example/film.mkv"
PAIRS = (("X-A", "b"), ("X-C", "d"))


def asked(**fields: Any) -> DownloadRequest:
    return DownloadRequest(**({"url": URL} | fields))


def entry(request: DownloadRequest) -> DownloadEntry:
    return entry_of(request, Config(), 5.0)


# Whatever a program that reads JSON, a form or a command line might hand over.
STRANGERS: tuple[Any, ...] = (
    None,
    5,
    1.5,
    float("nan"),
    True,
    "text",
    b"bytes",
    ["a"],
    ("a",),
    {"a": 1},
    {1},
    object(),
)
TAKEN: dict[str, tuple[Any, ...]] = {
    "url": (),
    "id": (None, "text"),
    "scope": ("text",),
    "product_id": ("text",),
    "product_type": ("text",),
    "title": ("text",),
    "group_id": ("text",),
    "headers": (),
    "secret_headers": (),
    "destination": (None, "text"),
    "overwrite": (True,),
    "expect": (),
    "expected_length": (None, 5),
    "priority": (5,),
    "durability": (),
    "media_types": (),
    "on_change": (),
    "connections": (None, 5),
    "rate_limit_bytes_s": (),
    "line": (),
    "mirrors": (),
    "pieces": (None,),
    "header_origins": (),
    "named": (True,),
}


def _is(one: Any, other: Any) -> bool:
    return type(one) is type(other) and one == other


CASES = [(name, value) for name, taken in TAKEN.items() for value in STRANGERS if not any(_is(value, a) for a in taken)]


def test_every_field_is_tried() -> None:
    assert set(TAKEN) == set(DownloadRequest.__struct_fields__) == set(FIELD_TYPES) | {"headers", "secret_headers"}


@pytest.mark.parametrize(("name", "value"), CASES, ids=lambda value: repr(value)[:20])
def test_a_field_of_a_wrong_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"\b{name}\b|\bURL\b" if name == "url" else rf"\b{name}\b"):
        entry(asked(**{name: value}))


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, taken in TAKEN.items() for value in taken])
def test_a_field_of_a_right_type_is_taken(name: str, value: Any) -> None:
    assert entry(asked(**{name: value})).url == URL


@pytest.mark.parametrize(
    "given",
    [
        PAIRS,
        list(PAIRS),
        [list(pair) for pair in PAIRS],
        dict(PAIRS),
        MappingProxyType(dict(PAIRS)),
        dict(PAIRS).items(),
    ],
    ids=["tuples", "list", "lists", "dict", "mapping", "items"],
)
@pytest.mark.parametrize("name", ["headers", "secret_headers"])
def test_header_fields_are_taken_as_pairs_or_a_mapping(name: str, given: Any) -> None:
    found = entry(asked(**{name: given}))
    assert (found.headers, found.secret_header_names) == ((PAIRS, ()) if name == "headers" else ((), ("x-a", "x-c")))


@pytest.mark.parametrize(
    "given",
    [
        [("X-A",)],
        [("X-A", "b", "c")],
        [("X-A", 5)],
        [(b"X-A", "b")],
        ["ab"],
        [{"X-A": "b"}],
        {"X-A": None},
        [None],
        iter(PAIRS),
    ],
    ids=lambda given: type(given).__name__,
)
@pytest.mark.parametrize("name", ["headers", "secret_headers"])
@pytest.mark.parametrize("call", [entry, split_fields])
def test_header_fields_that_are_no_pairs_of_text_are_named(name: str, given: Any, call: Any) -> None:
    with pytest.raises(InvalidRequest, match=rf"^{name} must be"):
        call(asked(**{name: given}))


def test_credentials_are_found_in_whatever_form_they_come() -> None:
    request = asked(headers={"Cookie": "a=b", "X-A": "c"}, secret_headers=[["X-Key", "k"]])
    assert split_fields(request) == ((("X-A", "c"),), (("Cookie", "a=b"), ("X-Key", "k")))
    assert entry(request).headers == (("X-A", "c"),)


@pytest.mark.parametrize("expect", [{"sha256": 5}, {5: "a"}, {"sha256": b"0" * 64}, {"sha256": None}], ids=repr)
def test_expectations_that_are_no_text_are_named(expect: Any) -> None:
    with pytest.raises(InvalidRequest, match="expect"):
        entry(asked(expect=expect))


@pytest.mark.parametrize("durability", ["strict", "relaxed"])
def test_durability_may_be_text(durability: str) -> None:
    assert entry(asked(durability=durability)).durability is Durability(durability)


@pytest.mark.parametrize("durability", ["", "STRICT", "eventual", Durability("eventual")])
def test_an_unknown_durability_is_named(durability: Any) -> None:
    with pytest.raises(InvalidRequest, match="durability must be strict or relaxed"):
        entry(asked(durability=durability))


def test_a_destination_may_be_a_path_object(tmp_path: Path) -> None:
    path = tmp_path / "film.mkv"
    assert entry(asked(destination=path)) == entry(asked(destination=str(path)))
    assert derive_id(asked(destination=path)) == derive_id(asked(destination=str(path)))


@pytest.mark.parametrize("way", ["builtins", "converted", "json", "msgpack"])
def test_a_request_survives_its_way_through_other_forms(way: str) -> None:
    request = asked(headers=PAIRS, expect={"md5": "0" * 32}, durability=Durability.RELAXED, priority=3, connections=2)
    ways: dict[str, Any] = {
        "builtins": lambda: DownloadRequest(**msgspec.json.decode(msgspec.json.encode(request))),
        "converted": lambda: msgspec.convert(msgspec.to_builtins(request), DownloadRequest),
        "json": lambda: msgspec.json.decode(msgspec.json.encode(request), type=DownloadRequest),
        "msgpack": lambda: msgspec.msgpack.decode(msgspec.msgpack.encode(request), type=DownloadRequest),
    }
    assert entry(ways[way]()) == entry(request)


@pytest.mark.parametrize("request_", [None, {"url": URL}, URL, object()])
def test_what_is_no_request_is_refused(request_: Any) -> None:
    with pytest.raises(InvalidRequest, match="DownloadRequest is needed"):
        entry(request_)
