"""The truth about one request, and how to tell it with one thing wrong."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.net.script_server import Asked, End, Step
from tests.support.library import payload_of

__all__ = ["CHUNK", "ETAG", "LAST_MODIFIED", "PAYLOAD", "Asked", "End", "Play", "Step", "Truth", "chunks", "told"]

CHUNK = 1024
PAYLOAD = payload_of(20 * CHUNK + 7, seed=5)
LAST_MODIFIED = "Tue, 03 Mar 2026 10:00:00 GMT"
ETAG = '"the-truth"'
_RANGE = re.compile(r"bytes=(\d+)-(\d*)")


@dataclass(frozen=True, slots=True)
class Truth:
    """What an honest server would answer: ``[start, end)`` of ``payload``, in a range when it was asked for one.
    ``serial`` counts the requests of this kind, from 1."""

    asked: Asked
    payload: bytes
    start: int
    end: int
    ranged: bool
    serial: int

    @classmethod
    def of(cls, asked: Asked, payload: bytes, serial: int) -> Truth:
        found = _RANGE.fullmatch(asked.get("range") or "")
        if found is None:
            return cls(asked, payload, 0, len(payload), ranged=False, serial=serial)
        last = int(found[2]) + 1 if found[2] else len(payload)
        return cls(asked, payload, int(found[1]), min(last, len(payload)), ranged=True, serial=serial)

    @property
    def body(self) -> bytes:
        return self.payload[self.start : self.end]

    @property
    def total(self) -> int:
        return len(self.payload)


Play = Callable[[Truth], Iterable[Step]]


def told(
    truth: Truth,
    *added: str,
    line: str | None = None,
    drop: Iterable[str] = (),
    range_text: str | None = None,
    length: int | None = None,
    body: bytes | None = None,
    whole: bool = False,
    etag: str = ETAG,
    end: str = "\r\n",
) -> bytes:
    """The honest answer with other, further or fewer fields; ``whole``: a 200 with everything, whatever was asked."""
    ranged = truth.ranged and not whole
    content = body if body is not None else truth.body if ranged else truth.payload
    fields = {
        "Content-Length": str(len(content) if length is None else length),
        "ETag": etag,
        "Last-Modified": LAST_MODIFIED,
    }
    if ranged:
        fields["Content-Range"] = range_text or f"bytes {truth.start}-{truth.end - 1}/{truth.total}"
    first = line or ("HTTP/1.1 206 Partial Content" if ranged else "HTTP/1.1 200 OK")
    kept = [f"{name}: {value}" for name, value in fields.items() if name not in drop and value]
    return end.join([first, *kept, *added, "", ""]).encode("latin-1") + content


def chunks(pieces: Iterable[bytes], extension: bytes = b"", last: bytes = b"0\r\n\r\n") -> Iterator[bytes]:
    """The chunked coding of the pieces."""
    for piece in pieces:
        yield b"%x%s\r\n%s\r\n" % (len(piece), extension, piece)
    yield last
