"""The strict head layer over h11 (fault catalogue section 3): nothing that two parsers could read differently passes.

h11 alone accepts much that hides smuggling (both framings at once, equal lengths twice, bare LF, folded lines, any
version), and checks its size limit only while it waits for more. So the raw bytes of each head are scanned here first,
and only then given to h11, which parses the very same bytes.
"""

from __future__ import annotations

import re
from enum import Enum

import h11
import msgspec

from engine.config import Config
from engine.errors import ProtocolViolation
from engine.net.fields import parse_count

_PROTOCOL = b"HTTP/1."
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [\t\x20-\x7e\x80-\xff]*)?")
_FIELD_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+):[\t ]*([\t\x20-\x7e\x80-\xff]*)")
_BARE_LF = re.compile(rb"(?<!\r)\n")
_SHOWN_BYTES = 60

# Fields that decide where the body ends or what the bytes mean: ASCII only (S18).
_ASCII_FIELDS = frozenset(
    {b"connection", b"content-encoding", b"content-length", b"content-range", b"transfer-encoding"}
)
_SWITCHING_PROTOCOLS = 101
_NO_CONTENT = 204
_BODYLESS = frozenset({_NO_CONTENT, 304})


class Framing(Enum):
    """How the end of the body is known."""

    LENGTH = "length"
    CHUNKED = "chunked"
    EOF = "eof"
    NONE = "none"


class Head(msgspec.Struct, frozen=True):
    """A final answer's head. Field names are lower case; values are text with one character per byte, and not shown:
    a Location or a cookie may be as good as a password."""

    status: int
    fields: tuple[tuple[str, str], ...]
    framing: Framing
    length: int | None
    keep_alive: bool

    def __repr__(self) -> str:
        return f"Head({self.status}, {self.framing.value}, length={self.length}, keep_alive={self.keep_alive})"

    def get_all(self, name: str) -> list[str]:
        """The values of every field of this (lower-case) name, in order."""
        return [value for key, value in self.fields if key == name]

    def get(self, name: str) -> str:
        """The field's value; empty when it is absent or there are several, for then none can be believed."""
        values = self.get_all(name)
        return values[0] if len(values) == 1 else ""


class HeadReader:
    """Collects one final head from pieces of bytes. ``codec`` is fresh and its request was sent; it is left where the
    body begins. Interim (1xx) heads are skipped. Raises ProtocolViolation as soon as the bytes cannot become a head."""

    def __init__(self, config: Config, codec: h11.Connection) -> None:
        self._config = config
        self._codec = codec
        self._buffer = bytearray()
        self._searched = 0
        self._lines = 0
        self._interims = 0
        self._total = 0

    @property
    def leftover(self) -> bytes:
        """What came behind the head."""
        return bytes(self._buffer)

    def feed(self, data: bytes | memoryview) -> Head | None:
        """The head when it is complete, None while more is needed."""
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n", max(0, self._searched - 3))) >= 0:
            block = bytes(self._buffer[: end + 4])
            del self._buffer[: end + 4]
            self._searched = self._lines = 0
            self._total += len(block)
            head = self._parse(block)
            if head is not None:
                return head
        self._check_unfinished()
        return None

    def _check_unfinished(self) -> None:
        """Refuse early what can no longer become a head. Looks at each byte once, however small the pieces are."""
        config, buffer = self._config, self._buffer
        if not _PROTOCOL.startswith(buffer[: len(_PROTOCOL)]):
            raise ProtocolViolation(f"the answer is not HTTP/1.1: it begins with {_shown(buffer)}")
        if self._total + len(buffer) > config.head_bytes_max:
            raise ProtocolViolation(f"the head is larger than {config.head_bytes_max} bytes")
        if _BARE_LF.search(buffer, self._searched):
            raise ProtocolViolation("a line of the head ends with a bare LF")
        self._lines += buffer.count(b"\n", self._searched)
        self._searched = len(buffer)
        if self._lines == 0 and len(buffer) > config.status_line_bytes_max:
            raise ProtocolViolation(f"the status line is longer than {config.status_line_bytes_max} bytes")
        if self._lines > config.head_fields_max + 1:
            raise ProtocolViolation(f"the head has more than {config.head_fields_max} fields")

    def _parse(self, block: bytes) -> Head | None:
        if self._total > self._config.head_bytes_max:
            raise ProtocolViolation(f"the head is larger than {self._config.head_bytes_max} bytes")
        head = scan_head(block, self._config)
        try:
            self._codec.receive_data(block)
            event = self._codec.next_event()
        except h11.RemoteProtocolError as error:
            raise ProtocolViolation(f"the head is not valid HTTP/1.1: {str(error)[:_SHOWN_BYTES]}") from error
        if head.status == _SWITCHING_PROTOCOLS:
            raise ProtocolViolation("the server switched protocols unasked", status=head.status)
        if not isinstance(event, h11.InformationalResponse | h11.Response) or event.status_code != head.status:
            raise ProtocolViolation("the head is read in two ways", status=head.status)
        if isinstance(event, h11.Response):
            return head
        self._interims += 1
        if self._interims > self._config.interim_responses_max:
            raise ProtocolViolation(f"more than {self._config.interim_responses_max} interim responses")
        return None


def scan_head(block: bytes, config: Config) -> Head:
    """The head in ``block``, which ends with its empty line. Raises ProtocolViolation for whatever is not plain, strict
    HTTP/1.0 or 1.1 with exactly one framing (S13-S21)."""
    status_line, *lines = block[:-4].split(b"\r\n")
    if len(status_line) > config.status_line_bytes_max:
        raise ProtocolViolation(f"the status line is longer than {config.status_line_bytes_max} bytes")
    match = _STATUS_LINE.fullmatch(status_line)
    if match is None:
        raise ProtocolViolation(f"the status line is not HTTP/1.0 or 1.1: {_shown(status_line)}")
    version, status = match[1], int(match[2])
    if len(lines) > config.head_fields_max:
        raise ProtocolViolation(f"the head has more than {config.head_fields_max} fields", status=status)
    fields = [_scan_field(line, status) for line in lines]
    framing, length = _framing(fields, status, version, config)
    tokens = {token.strip().lower() for name, value in fields if name == "connection" for token in value.split(",")}
    persistent = "close" not in tokens and (version == b"1" or "keep-alive" in tokens)
    return Head(status, tuple(fields), framing, length, persistent and framing is not Framing.EOF)


def _scan_field(line: bytes, status: int) -> tuple[str, str]:
    match = _FIELD_LINE.fullmatch(line)
    if match is None:
        raise ProtocolViolation(f"a line of the head is not a field: {_shown(line)}", status=status)
    name, value = match[1].lower(), match[2].rstrip(b" \t")
    if name in _ASCII_FIELDS and not value.isascii():
        raise ProtocolViolation(f"the field {name.decode('ascii')} holds bytes beyond ASCII", status=status)
    return name.decode("ascii"), value.decode("latin-1")


def _framing(fields: list[tuple[str, str]], status: int, version: bytes, config: Config) -> tuple[Framing, int | None]:
    lengths = [value for name, value in fields if name == "content-length"]
    codings = [value for name, value in fields if name == "transfer-encoding"]
    if len(lengths) + len(codings) > 1:
        raise ProtocolViolation("the end of the body is declared more than once", status=status)
    if codings and (version == b"0" or codings[0].lower() != "chunked"):
        raise ProtocolViolation(f"the transfer coding {codings[0][:_SHOWN_BYTES]!r} is not accepted", status=status)
    length = parse_count(lengths[0]) if lengths else None
    if lengths and (length is None or length > config.part_bytes_max):
        raise ProtocolViolation(f"the content length {lengths[0][:_SHOWN_BYTES]!r} is not a size", status=status)
    if status < 200 and (lengths or codings):
        raise ProtocolViolation("an interim answer declares a body", status=status)
    if status == _NO_CONTENT and (codings or length):  # whether a body follows, parsers disagree: nothing else may
        return Framing.EOF, None
    if status < 200 or status in _BODYLESS:
        return Framing.NONE, None
    if codings:
        return Framing.CHUNKED, None
    return (Framing.EOF, None) if length is None else (Framing.LENGTH, length)


def _shown(data: bytes | bytearray) -> str:
    """The beginning of foreign bytes for an error text, escaped (M25)."""
    return repr(bytes(data[:_SHOWN_BYTES]))[1:]
