"""How keys and values look in the store: fixed big-endian keys, and values under a checksum that covers their key too.

A value is one format byte, the CRC-32 of (format, table, key, payload), and the payload. So a record that rotted, was
cut short or lies under a key or in a table that is not its own is found when it is read (fault catalogue L10).
"""

from __future__ import annotations

import struct
import zlib
from enum import Enum
from functools import lru_cache
from typing import Final, TypeVar

import msgspec
from blake3 import blake3

from engine.errors import BadRecord, UnknownEntry

# What msgspec raises for bytes that are no such record: its own errors, and Python's for bad UTF-8 and deep nesting.
DECODE_ERRORS: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
FORMAT: Final = 1
KEY_BYTES: Final = 16
PART_KEY_BYTES: Final = KEY_BYTES + 2
STATE_KEY_BYTES: Final = 16
PLACE_BYTES: Final = 8  # volume and position of a member

_HEADER: Final = struct.Struct(">BI")
_PART: Final = struct.Struct(">H")
_PAGE: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">Q")

Payload = bytes | memoryview
Record = TypeVar("Record", bound=msgspec.Struct)


class Table(Enum):
    """The LMDB databases inside the store, by name."""

    META = b"meta"
    ENTRIES = b"entries"
    PARTS = b"parts"
    OFFLINE = b"offline"
    BITS = b"bits"
    CVS = b"cvs"
    BY_SEQUENCE = b"by_sequence"
    BY_STATE = b"by_state"
    UNSYNCED = b"unsynced"
    SUSPECTS = b"suspects"
    BY_SCOPE = b"by_scope"
    GROUPS = b"groups"
    MEMBERS = b"members"
    LINKS = b"links"
    SORTED = b"sorted"
    INBOX = b"inbox"
    TOMBSTONES = b"tombstones"

    __hash__ = object.__hash__  # members are looked up for every value; Enum's own hash is Python code


# How long the keys of a table are; META's are names. Another length can only be damage.
KEY_SIZES: Final = {
    Table.ENTRIES: KEY_BYTES,
    Table.PARTS: PART_KEY_BYTES,
    Table.OFFLINE: KEY_BYTES,
    Table.BITS: PART_KEY_BYTES + _PAGE.size,
    Table.CVS: PART_KEY_BYTES + _PAGE.size,
    Table.BY_SEQUENCE: _NUMBER.size,
    Table.BY_STATE: STATE_KEY_BYTES + _NUMBER.size,
    Table.UNSYNCED: PART_KEY_BYTES,
    Table.SUSPECTS: 2 * _NUMBER.size,
    Table.BY_SCOPE: KEY_BYTES + _NUMBER.size,
    Table.GROUPS: KEY_BYTES,
    Table.MEMBERS: KEY_BYTES + PLACE_BYTES,
    Table.LINKS: 2 * KEY_BYTES + PLACE_BYTES,
    Table.INBOX: _NUMBER.size,
    Table.TOMBSTONES: KEY_BYTES,
}

_SEEDS: Final = {table: zlib.crc32(bytes([FORMAT]) + table.value) for table in Table}


def seal(table: Table, key: bytes, payload: bytes | bytearray) -> bytes:
    """The value to store: header and payload."""
    return _HEADER.pack(FORMAT, zlib.crc32(payload, zlib.crc32(key, _SEEDS[table]))) + payload


def unseal(table: Table, key: bytes, value: Payload) -> Payload:
    """The payload of a stored value, as a slice of it. Raises BadRecord."""
    if len(value) < _HEADER.size:
        raise BadRecord(f"a value in '{table.name.lower()}' is cut short")
    form, checksum = _HEADER.unpack_from(value)
    if form != FORMAT:
        raise BadRecord(f"a value in '{table.name.lower()}' has the unknown format {form}")
    payload = value[_HEADER.size :]
    if zlib.crc32(payload, zlib.crc32(key, _SEEDS[table])) != checksum:
        raise BadRecord(f"a value in '{table.name.lower()}' does not match its checksum")
    return payload


def encode(record: msgspec.Struct) -> bytes:
    """A record as bytes that are known to decode again. Raises ValueError for a field of the wrong type."""
    data = msgspec.msgpack.encode(record)
    msgspec.msgpack.decode(data, type=type(record))
    return data


def decode(payload: Payload, kind: type[Record]) -> Record:
    """The record in ``payload``. Raises BadRecord."""
    try:
        return msgspec.msgpack.decode(payload, type=kind)
    except DECODE_ERRORS as error:
        raise BadRecord(f"a {kind.__name__} does not decode: {error}") from error


@lru_cache(maxsize=4096)
def entry_key(entry_id: str) -> bytes:
    """The 16-byte key of an id (L18: an id may be longer than LMDB's keys). Raises UnknownEntry for what
    can be none's."""
    try:
        return blake3(entry_id.encode()).digest(length=KEY_BYTES)
    except (AttributeError, UnicodeEncodeError) as error:
        raise UnknownEntry(f"no entry has the id {entry_id!r}") from error


def part_key(entry: bytes, part_index: int) -> bytes:
    """The key of a part below an entry's key."""
    return entry + _PART.pack(part_index)


def page_key(part: bytes, page: int) -> bytes:
    """The key of a page of bits or CVs below a part's key."""
    return part + _PAGE.pack(page)


def part_index_of(key: bytes) -> int:
    """The part index in a part's or page's key."""
    index: int = _PART.unpack_from(key, KEY_BYTES)[0]
    return index


def page_of(key: bytes) -> int:
    """The page number in a page's key."""
    page: int = _PAGE.unpack_from(key, PART_KEY_BYTES)[0]
    return page


def number_key(number: int) -> bytes:
    """The key of a sequence or group number, in numeric order."""
    return _NUMBER.pack(number)


def number_of(key: bytes) -> int:
    """The number in the last eight bytes of a key."""
    number: int = _NUMBER.unpack_from(key, len(key) - _NUMBER.size)[0]
    return number


def scope_key(scope: str) -> bytes:
    """The prefix of a scope in the by-scope index; a scope may be of any length."""
    return blake3(scope.encode(errors="surrogatepass")).digest(length=KEY_BYTES)


def state_key(state: str) -> bytes:
    """The prefix of a state in the by-state index: its name, padded; unknown states of newer versions have one too."""
    return state.encode()[:STATE_KEY_BYTES].ljust(STATE_KEY_BYTES, b"\0")
