"""The servers of the simulator: files with versions, and answers that depart from the truth in one way at a time."""

from __future__ import annotations

import hashlib
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain

from engine.model.records import Pieces
from tests.fire.sim_faults import Faults
from tests.fire.sim_net import End, Wire

_RANGE = re.compile(rb"\r\nrange: *bytes=(\d+)-(\d*)", re.IGNORECASE)
_IF_RANGE = re.compile(rb"\r\nif-range: *([^\r\n]+)", re.IGNORECASE)
DATE = "Mon, 23 Nov 2026 04:00:00 GMT"
MANY = 1 << 40
PIECE_BYTES = 5000  # of no size that chunks have


@dataclass
class Media:
    """One file of the servers. ``validator``: etag, date or none. ``fixed``: its bytes never change, and whoever asks
    for it has its SHA-256, or that of each piece, so that they may be corrupted on their way; ``corrupted``: they were,
    so that chunks may be wrong until what they belong to is there. ``versions``: all that it ever was."""

    name: str
    validator: str
    ranges: bool
    fixed: bool
    in_pieces: bool = False
    corrupted: bool = False
    versions: list[bytes] = field(default_factory=list)

    @property
    def data(self) -> bytes:
        """Its bytes now."""
        return self.versions[-1]

    @property
    def sha256(self) -> str:
        """Of its bytes now."""
        return hashlib.sha256(self.data).hexdigest()

    @property
    def pieces(self) -> Pieces | None:
        """The hashes of its pieces, where they are known."""
        if not self.in_pieces:
            return None
        cut = [self.data[at : at + PIECE_BYTES] for at in range(0, len(self.data), PIECE_BYTES)]
        return Pieces(
            algorithm="sha256",
            piece_bytes=PIECE_BYTES,
            digests=b"".join(hashlib.sha256(piece).digest() for piece in cut),
        )

    def validators(self) -> list[tuple[str, str]]:
        """The fields that tell this version from others."""
        number = len(self.versions)
        if self.validator == "etag":
            return [("ETag", f'"{self.name}-{number}"')]
        if self.validator == "date":
            return [("Last-Modified", f"Tue, 03 Mar 2026 {number % 24:02}:{number // 24 % 60:02}:00 GMT")]
        return []


@dataclass
class Answer:
    """What is sent: the head's fields in order, the body, how much of it, and what comes then."""

    status: int
    fields: list[tuple[str, str]]
    body: bytes = b""
    sent: int = MANY
    end: End | None = None
    before: bytes = b""
    behind: bytes = b""
    chunked: bool = False

    def put(self, name: str, value: str | None) -> None:
        """Set a field, or take it away."""
        self.fields = [(key, held) for key, held in self.fields if key != name]
        if value is not None:
            self.fields.append((name, value))

    def refuse(self, status: int, *fields: tuple[str, str]) -> None:
        """No media, but this status."""
        self.status, self.body = status, b"no"
        self.fields = [("Date", DATE), *fields, ("Content-Length", "2")]


@dataclass(frozen=True)
class Asked:
    """A request: the range is half open, and ``None`` when none was asked for. ``known``: who asks knows the length."""

    media: Media
    start: int | None
    end: int | None
    known: bool = False


class Servers:
    """All hosts. ``note`` gets a line for each request."""

    def __init__(self, faults: Faults, note: Callable[[str], None]) -> None:
        self.media: dict[str, Media] = {}
        self._faults = faults
        self._rng = faults.rng
        self._note = note

    def add(self, name: str, size: int) -> Media:
        """A new file."""
        rng = self._rng
        fixed = rng.random() < 0.3
        validator = rng.choice(("etag", "etag", "etag", "date", "none"))
        media = Media(name, validator, ranges=rng.random() < 0.85, fixed=fixed, versions=[rng.randbytes(size)])
        media.in_pieces = fixed and size > 0 and rng.random() < 0.5
        self.media[name] = media
        return media

    def change(self, media: Media) -> None:
        """Another version, that has nothing in common with the ones before; but for its length, and that only where
        answers are never without a validator: nobody could tell such a change between two requests."""
        if media.fixed:
            return
        size = max(1, len(media.data) + self._rng.choice((0, 0, -7, 1000)))
        if media.validator == "none" or "no_validator" in self._faults.rates:
            while size in {len(version) for version in media.versions}:
                size += 1
        media.versions.append(self._rng.randbytes(size))

    def serve(self, host: str, head: bytes) -> Wire:
        """The answer to a request, as it comes."""
        target = head.split(b" ", 2)[1].decode()
        moved, _, name = target.rpartition("/")
        media, wanted = self.media[name], _RANGE.search(head)
        start = int(wanted[1]) if wanted else None
        end = int(wanted[2]) + 1 if wanted and wanted[2] else None
        self._note(f"asked {host} {target} {start}-{end}")
        if self._faults.hit("changed"):
            self.change(media)
        if_range = _IF_RANGE.search(head)
        asked = Asked(media, start, end, if_range is not None)
        answer = self._truth(asked, if_range)
        if moved != "/moved" and self._faults.hit("redirect"):
            answer.refuse(302, ("Location", f"http://cdn.example/moved/{name}"))
        elif self._faults.hit("redirect_loop"):
            answer.refuse(302, ("Location", f"http://{host}{target}"))
        else:
            self._lie(answer, asked)
        self._break(answer)
        return self._sent(answer)

    def _truth(self, asked: Asked, if_range: re.Match[bytes] | None) -> Answer:
        media, start, end = asked.media, asked.start, asked.end
        size = len(media.data)
        fields = [("Date", DATE), ("Content-Type", "application/octet-stream"), *media.validators()]
        same = if_range is None or if_range[1].decode() in {value for _, value in media.validators()}
        if start is None or not media.ranges or not same:
            accepts = [("Accept-Ranges", "bytes")] if media.ranges else []
            return Answer(200, [*fields, *accepts, ("Content-Length", str(size))], media.data)
        if start >= size:
            return Answer(416, [*fields, ("Content-Range", f"bytes */{size}"), ("Content-Length", "0")])
        last = min(size, end or size)
        content_range = ("Content-Range", f"bytes {start}-{last - 1}/{size}")
        return Answer(206, [*fields, content_range, ("Content-Length", str(last - start))], media.data[start:last])

    def _lie(self, answer: Answer, asked: Asked) -> None:
        for kind, apply in LIES.items():
            if self._faults.hit(kind):
                apply(answer, asked, self._rng)
                return
        if answer.status in {200, 206} and self._faults.hit("chunked"):
            answer.put("Content-Length", None)
            answer.put("Transfer-Encoding", "chunked")
            answer.chunked = True

    def _break(self, answer: Answer) -> None:
        for kind, end in (("reset", End.RESET), ("cut", End.FIN), ("stall", None)):
            if self._faults.hit(kind):
                answer.sent = self._rng.randrange(len(answer.body) + 200)
                answer.end = end
                return
        if self._rng.random() < 0.1:
            answer.put("Connection", "close")
            answer.end = End.FIN

    def _sent(self, answer: Answer) -> Wire:
        lines = "".join(f"{name}: {value}\r\n" for name, value in answer.fields)
        head = answer.before + f"HTTP/1.1 {answer.status} Word\r\n{lines}\r\n".encode("latin-1")
        body = _in_chunks(answer.body, self._rng) if answer.chunked else answer.body
        data = (head + body + answer.behind)[: answer.sent]
        silent = answer.sent < MANY and answer.end is None
        pieces = self._in_pieces(data, len(head))
        return pieces if answer.end is None or silent else chain(pieces, [(0.0, answer.end)])

    def _in_pieces(self, data: bytes, head: int) -> Iterator[tuple[float, bytes | End]]:
        rng = self._rng
        drips, slices = self._faults.hit("drip"), self._faults.hit("slices")
        size = rng.choice((1, 3, 17, 200)) if slices else 16 * 1024
        pause = 3.0 if drips else rng.choice((0.0, 0.0, 0.002, 0.05))
        yield rng.choice((0.0, 0.001, 0.05)), b""
        at = 0
        while at < len(data):
            fine = slices and (at < head + 20 or at > len(data) - 20)  # single bytes where something is decided
            many = rng.randint(1, size) if fine else rng.randint(size, 8 * 1024 + size)
            yield pause * rng.random(), data[at : at + many]
            at += many


def _in_chunks(data: bytes, rng: random.Random) -> bytes:
    out, at = bytearray(), 0
    while at < len(data):
        piece = data[at : at + rng.choice((1, 100, 5000, 40_000))]
        out += f"{len(piece):x}\r\n".encode() + piece + b"\r\n"
        at += len(piece)
    return bytes(out) + b"0\r\n\r\n"


def _other_start(answer: Answer, asked: Asked, rng: random.Random) -> None:
    if answer.status == 206:
        start = (asked.start or 0) + rng.choice((1, 512, 4096))
        answer.put("Content-Range", f"bytes {start}-{start + len(answer.body) - 1}/{len(asked.media.data) + 4096}")


def _other_total(answer: Answer, asked: Asked, rng: random.Random) -> None:
    if answer.status == 206 and asked.known:
        start, size = asked.start or 0, len(asked.media.data) + rng.choice((1, 100, 10**18))
        answer.put("Content-Range", f"bytes {start}-{start + len(answer.body) - 1}/{size}")


def _no_content_range(answer: Answer, _asked: Asked, rng: random.Random) -> None:
    if answer.status == 206:
        answer.put(
            "Content-Range", rng.choice((None, "bytes", "bytes 5-/", "bytes -1-5/10", "bytes 0-99999999999999999999/*"))
        )


def _range_ignored(answer: Answer, asked: Asked, _rng: random.Random) -> None:
    if answer.status == 206:
        answer.status, answer.body = 200, asked.media.data
        answer.put("Content-Range", None)
        answer.put("Content-Length", str(len(answer.body)))


def _bogus_416(answer: Answer, asked: Asked, rng: random.Random) -> None:
    answer.refuse(416, ("Content-Range", f"bytes */{rng.choice((0, 1, len(asked.media.data)))}"))


def _bad_head(answer: Answer, _asked: Asked, rng: random.Random) -> None:
    strange = (
        ("X-A", "a\r\n b"),
        ("Content-Length", "7"),
        ("Transfer-Encoding", "gzip"),
        ("X-B", "\x07"),
        ("X C", "c"),
    )
    answer.fields.append(rng.choice(strange))


def _surplus(answer: Answer, _asked: Asked, _rng: random.Random) -> None:
    answer.behind = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad"


def _endless_interims(answer: Answer, _asked: Asked, rng: random.Random) -> None:
    answer.before = b"HTTP/1.1 103 Early Hints\r\n\r\n" * rng.choice((1, 8, 9, 500))


def _encoded(answer: Answer, _asked: Asked, _rng: random.Random) -> None:
    answer.put("Content-Encoding", "gzip")


def _multipart(answer: Answer, _asked: Asked, _rng: random.Random) -> None:
    if answer.status == 206:
        answer.put("Content-Type", "multipart/byteranges; boundary=x")
        answer.put("Content-Range", None)


def _no_validator(answer: Answer, _asked: Asked, _rng: random.Random) -> None:
    answer.put("ETag", None)
    answer.put("Last-Modified", None)


def _to_the_end(answer: Answer, _asked: Asked, _rng: random.Random) -> None:
    answer.put("Content-Length", None)
    answer.end = End.FIN


def _corrupt(answer: Answer, asked: Asked, rng: random.Random) -> None:
    if asked.media.fixed and answer.body and answer.status in {200, 206}:
        asked.media.corrupted = True
        at = rng.randrange(len(answer.body))
        answer.body = answer.body[:at] + bytes([answer.body[at] ^ 0x40]) + answer.body[at + 1 :]


def _refusal(status: int, *fields: tuple[str, str]) -> Callable[[Answer, Asked, random.Random], None]:
    return lambda answer, _asked, _rng: answer.refuse(status, *fields)


def _later(answer: Answer, _asked: Asked, rng: random.Random) -> None:
    answer.refuse(rng.choice((429, 503)), ("Retry-After", rng.choice(("0", "1", "30", "-5", "x", "99999999", DATE))))


LIES: dict[str, Callable[[Answer, Asked, random.Random], None]] = {
    "http_5xx": _refusal(502),
    "http_429": _later,
    "http_404": _refusal(404),
    "http_403": _refusal(403),
    "range_start": _other_start,
    "range_total": _other_total,
    "no_content_range": _no_content_range,
    "range_ignored": _range_ignored,
    "bogus_416": _bogus_416,
    "bad_head": _bad_head,
    "surplus": _surplus,
    "endless_interims": _endless_interims,
    "encoded": _encoded,
    "multipart": _multipart,
    "no_validator": _no_validator,
    "to_the_end": _to_the_end,
    "corrupt": _corrupt,
}
