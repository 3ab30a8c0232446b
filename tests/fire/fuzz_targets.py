"""The fuzz targets by name, and how much of each the short tier plays."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from tests.fire import fuzz_fields, fuzz_http, fuzz_native, fuzz_store


class Entry(NamedTuple):
    """``inputs``: for the short tier, about two seconds. ``stretch_every``: how often a long one; 0: none, where every
    length is bounded by the caller."""

    play: Callable[[bytes], None]
    inputs: int
    stretch_every: int = 50


TARGETS: dict[str, Entry] = {
    "head": Entry(fuzz_http.head, 6000, 200),
    "content-range": Entry(fuzz_fields.content_range, 10000, 200),
    "disposition": Entry(fuzz_fields.disposition, 1500, 100),
    "url": Entry(fuzz_http.url, 3000, 200),
    "times": Entry(fuzz_fields.times, 8000, 100),
    "metalink": Entry(fuzz_store.metalink, 8000, 200),
    "digests": Entry(fuzz_fields.digests, 30000, 200),
    "records": Entry(fuzz_store.records, 5000, 200),
    "store": Entry(fuzz_store.store, 800, 0),
    "commands": Entry(fuzz_store.commands, 20000, 200),
    "length-body": Entry(fuzz_http.length_body, 500, 200),
    "chunked-body": Entry(fuzz_http.chunked_body, 500, 200),
    "core": Entry(fuzz_native.core, 800, 0),
}
