"""From a caller's request to an entry: checked before anything is done (fault catalogue H12, M17, M18, M22)."""

from __future__ import annotations

import os
import string
from collections.abc import Callable, Collection, Mapping
from types import NoneType
from typing import Any

from blake3 import blake3
from msgspec.structs import replace

from engine.config import Config
from engine.errors import InvalidRequest
from engine.model.line_policy import LinePolicy
from engine.model.records import PIECES_MAX, DownloadEntry, DownloadRequest, Durability, OnChange, Pieces
from engine.net.fields import check_host_fields
from engine.net.media_type import MEDIA_TYPES_MAX, is_media_range
from engine.net.pacing import checked_rate
from engine.net.trust import parse_origin
from engine.net.url import parse_url
from engine.transfer.finish import HEX_DIGITS

Fields = tuple[tuple[str, str], ...]

ID_BYTES_MAX = 512
PATH_BYTES_MAX = 4000
TEXT_CHARS_MAX = 16_384
HEADER_ORIGINS_MAX = 16
MIRRORS_MAX = 64

# Fields that carry credentials by their nature; others are secret when the caller says so.
CREDENTIAL_FIELDS = frozenset({"authorization", "cookie", "proxy-authorization", "x-api-key", "x-auth-token"})

# Which types a field may have, and how to say so. What else is checked of it follows in `entry_of`.
FIELD_TYPES: dict[str, tuple[tuple[type, ...], str]] = {
    "url": ((str,), "text"),
    "id": ((str, NoneType), "text or None"),
    "scope": ((str,), "text"),
    "product_id": ((str,), "text"),
    "product_type": ((str,), "text"),
    "title": ((str,), "text"),
    "group_id": ((str,), "text"),
    "destination": ((str, NoneType), "a path or None"),
    "overwrite": ((bool,), "True or False"),
    "named": ((bool,), "True or False"),
    "expect": ((Mapping,), "a mapping of algorithm to hex digest"),
    "expected_length": ((int, NoneType), "a number or None"),
    "priority": ((int,), "a number"),
    "durability": ((str,), "strict or relaxed"),
    "mirrors": ((list, tuple), "a list of URLs"),
    "pieces": ((Pieces, NoneType), "Pieces or None"),
    "media_types": ((list, tuple), "a list of types like audio/flac or video/*"),
    "on_change": ((str,), "restart or fail"),
    "header_origins": ((list, tuple), "a list of origins like https://host"),
    "connections": ((int, NoneType), "a number or None"),
    "rate_limit_bytes_s": ((int,), "a number of bytes a second"),
    "line": ((LinePolicy, Mapping), "a LinePolicy"),
}


def checked(request: DownloadRequest) -> DownloadRequest:
    """The request with fields of the types that it declares: header fields may come as a mapping or as pairs of any
    kind, the destination as a path object, the durability as text. Raises InvalidRequest naming a field that cannot be
    taken so."""
    _check_kind(request)
    destination = _path(request.destination)
    for name, (kinds, meaning) in FIELD_TYPES.items():
        value = destination if name == "destination" else getattr(request, name)
        if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            raise InvalidRequest(f"{name} must be {meaning}, not {type(value).__name__}")
    return replace(
        request,
        destination=destination,
        headers=_pairs("headers", request.headers),
        secret_headers=_pairs("secret_headers", request.secret_headers),
        durability=Durability(request.durability),
        mirrors=_mirrors(request.mirrors),
        media_types=_media_types(request.media_types),
        on_change=OnChange(request.on_change),
        header_origins=_origins(request.header_origins),
        line=LinePolicy.of(request.line),
    )


def derive_id(request: DownloadRequest) -> str:
    """The id of a request without one: the same scope, URL and explicit destination are the same entry, however the
    URL is spelled, and whatever its fragment. Raises InvalidRequest."""
    return _derived_id(checked(request))


def _derived_id(request: DownloadRequest) -> str:
    return _hashed(request, str(parse_url(request.url)))


def _hashed(request: DownloadRequest, url: str) -> str:
    destination, is_folder = _destination(request.destination)
    text = "\0".join((request.scope, url, destination, str(is_folder)))
    return blake3(text.encode(errors="surrogatepass")).hexdigest(16)


def with_known_id(request: DownloadRequest, known: Callable[[str], bool]) -> DownloadRequest:
    """The request; with the id that versions up to 0.1.0 derived, from the URL as it was spelled, where an entry has
    that one and none has today's. Raises InvalidRequest."""
    if request.id is not None or not isinstance(request.url, str) or str(parse_url(request.url)) == request.url:
        return request
    request = checked(request)
    older = _hashed(request, request.url)
    return replace(request, id=older) if known(older) and not known(_derived_id(request)) else request


def split_fields(request: DownloadRequest) -> tuple[Fields, Fields]:
    """``(kept, secret)`` header fields: the first may be persisted, the second never are. Raises
    InvalidRequest."""
    return _split(checked(request))


def _split(request: DownloadRequest) -> tuple[Fields, Fields]:
    kept = tuple(field for field in request.headers if field[0].lower() not in CREDENTIAL_FIELDS)
    secret = tuple(field for field in request.headers if field[0].lower() in CREDENTIAL_FIELDS)
    return kept, secret + request.secret_headers


def entry_of(request: DownloadRequest, config: Config, now: float) -> DownloadEntry:
    """A new PENDING entry. Raises InvalidRequest, saying which field is wrong."""
    return asked_of(request, config, now)[0]


def asked_of(request: DownloadRequest, config: Config, now: float) -> tuple[DownloadEntry, Fields]:
    """:func:`entry_of`, and the secret header fields, which are not stored."""
    request = checked(request)
    url = parse_url(request.url)
    check_host_fields(request.headers + request.secret_headers)
    if request.expected_length is not None and not 0 <= request.expected_length <= config.part_bytes_max:
        raise InvalidRequest(f"expected_length must be 0 to {config.part_bytes_max}, not {request.expected_length}")
    if request.connections is not None and not 1 <= request.connections <= config.connections_per_entry_max:
        raise InvalidRequest(f"connections must be 1 to {config.connections_per_entry_max}, not {request.connections}")
    checked_rate(request.rate_limit_bytes_s, "rate_limit_bytes_s")
    request.line.check()
    if not request.durability.known:
        raise InvalidRequest(f"durability must be strict or relaxed, not {request.durability.value}")
    if not request.on_change.known:
        raise InvalidRequest(f"on_change must be restart or fail, not {request.on_change.value}")
    if not -(2**31) <= request.priority < 2**31:
        raise InvalidRequest("priority must fit 32 bits")
    for name in ("url", "id", "scope", "product_id", "product_type", "title", "group_id", "destination"):
        _check_text(name, getattr(request, name))
    kept, secret = _split(request)
    destination, is_folder = _destination(request.destination)
    entry = DownloadEntry(
        id=_checked_id(request),
        scope=request.scope,
        product_id=request.product_id,
        product_type=request.product_type,
        title=request.title,
        group_id=request.group_id,
        sources=tuple(dict.fromkeys((str(url), *request.mirrors))),
        pieces=_pieces(request),
        headers=kept,
        secret_header_names=tuple(name.lower() for name, _ in secret),
        destination=destination,
        destination_is_folder=is_folder,
        overwrite=request.overwrite,
        expect=_expectations(request.expect),
        expected_length=request.expected_length,
        priority=request.priority,
        durability=request.durability,
        media_types=request.media_types,
        on_change=request.on_change,
        header_origins=request.header_origins,
        named=request.named,
        connections=request.connections,
        rate_limit_bytes_s=request.rate_limit_bytes_s,
        line=request.line,
        created_at=now,
        updated_at=now,
    )
    return entry, secret


def merge(entry: DownloadEntry, asked: DownloadEntry) -> DownloadEntry:
    """What an entry becomes when the same id is asked for again; the caller then moves its state.

    The newer request's URL, headers, expectations, priority, durability, connections, media types and what to do when
    the source changes count. Where the file goes
    cannot change any more, nor whose it is: raises InvalidRequest when either differs.
    """
    if asked.scope != entry.scope:
        raise InvalidRequest(f"entry {entry.id} is of the scope {entry.scope!r}, not {asked.scope!r}; use another id")
    if (asked.destination, asked.destination_is_folder) != (entry.destination, entry.destination_is_folder):
        where = entry.destination or "the library"
        raise InvalidRequest(f"entry {entry.id} goes to {where}; use another id for another place")
    return replace(
        entry,
        sources=asked.sources,
        pieces=asked.pieces,
        blamed=entry.blamed if asked.sources == entry.sources else (),
        headers=asked.headers,
        secret_header_names=asked.secret_header_names,
        overwrite=asked.overwrite,
        expect=asked.expect,
        expected_length=asked.expected_length,
        priority=asked.priority,
        durability=asked.durability,
        media_types=asked.media_types,
        on_change=asked.on_change,
        header_origins=asked.header_origins,
        named=asked.named,
        connections=asked.connections,
        rate_limit_bytes_s=asked.rate_limit_bytes_s,
        line=asked.line,
        title=asked.title or entry.title,
    )


def changes_of(entry: DownloadEntry, merged: DownloadEntry) -> dict[str, Any]:
    """The fields in which they differ."""
    names = entry.__struct_fields__
    return {name: getattr(merged, name) for name in names if getattr(merged, name) != getattr(entry, name)}


def _check_kind(request: object) -> None:
    if not isinstance(request, DownloadRequest):
        raise InvalidRequest(f"a DownloadRequest is needed, not {type(request).__name__}")


def _path(given: object) -> object:
    return os.fspath(given) if isinstance(given, os.PathLike) else given


def _pairs(name: str, given: object) -> tuple[tuple[str, str], ...]:
    """Header fields as pairs of text, from a mapping or from pairs in any list or tuple; not from what can be read only
    once."""
    items = given.items() if isinstance(given, Mapping) else given
    wrong = f"{name} must be a mapping, or pairs, of text: a name and its value"
    if isinstance(items, str | bytes) or not isinstance(items, Collection):
        raise InvalidRequest(f"{wrong}; not {type(given).__name__}")
    pairs = [tuple(item) if isinstance(item, list | tuple) else () for item in items]
    if not all(len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs):
        raise InvalidRequest(wrong)
    return tuple((pair[0], pair[1]) for pair in pairs)


def _origins(given: object) -> tuple[str, ...]:
    texts = tuple(given) if isinstance(given, list | tuple) else ()
    if len(texts) > HEADER_ORIGINS_MAX:
        raise InvalidRequest(f"header_origins must be at most {HEADER_ORIGINS_MAX}")
    return tuple(_named("header_origins", text, parse_origin) for text in texts)


def _named(field: str, text: object, parse: Callable[[str], object]) -> str:
    """What is parsed, as text; an error names the field."""
    try:
        if isinstance(text, str):
            return str(parse(text))
        raise InvalidRequest(f"text is needed, not {type(text).__name__}")
    except InvalidRequest as error:
        raise InvalidRequest(f"{field}: {error}") from error


def _mirrors(given: object) -> tuple[str, ...]:
    texts = tuple(given) if isinstance(given, list | tuple) else ()
    if len(texts) > MIRRORS_MAX:
        raise InvalidRequest(f"mirrors must be at most {MIRRORS_MAX}")
    return tuple(_named("mirrors", text, parse_url) for text in texts)


def _pieces(request: DownloadRequest) -> Pieces | None:
    """Its pieces, if their hashes are as many as they have to be."""
    pieces = request.pieces
    if pieces is None:
        return None
    if pieces.algorithm not in HEX_DIGITS or pieces.algorithm == "blake3":
        raise InvalidRequest(f"pieces can have hashes by {', '.join(name for name in HEX_DIGITS if name != 'blake3')}")
    size = HEX_DIGITS[pieces.algorithm] // 2
    count, rest = divmod(len(pieces.digests), size)
    if pieces.piece_bytes < 1 or rest or not 1 <= count <= PIECES_MAX:
        raise InvalidRequest(
            f"pieces must be 1 to {PIECES_MAX}, of at least one byte, with a hash of {size} bytes each"
        )
    if request.expected_length is not None and count != -(-request.expected_length // pieces.piece_bytes):
        raise InvalidRequest(f"{count} hashes of pieces do not describe {request.expected_length} bytes")
    return pieces


def _media_types(given: object) -> tuple[str, ...]:
    kinds = tuple(given) if isinstance(given, list | tuple) else ()
    if len(kinds) > MEDIA_TYPES_MAX:
        raise InvalidRequest(f"media_types must be at most {MEDIA_TYPES_MAX}")
    for kind in kinds:
        if not isinstance(kind, str) or not is_media_range(kind.lower()):
            raise InvalidRequest("media_types must be a list of types like audio/flac or video/*")
    return tuple(kind.lower() for kind in kinds)


def _checked_id(request: DownloadRequest) -> str:
    if request.id is None:
        return _derived_id(request)
    size = len(request.id.encode(errors="surrogatepass"))
    if not 1 <= size <= ID_BYTES_MAX or not request.id.isprintable():
        raise InvalidRequest(f"an id is 1 to {ID_BYTES_MAX} bytes of printable text")
    return request.id


def _check_text(name: str, value: str | None) -> None:
    if value is not None and (len(value) > TEXT_CHARS_MAX or not _is_utf8(value)):
        raise InvalidRequest(f"{name} must be at most {TEXT_CHARS_MAX} characters that UTF-8 can hold")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:  # lone surrogates, from bytes that are no UTF-8
        return False
    return True


def _destination(path: str | None) -> tuple[str, bool]:
    if path is None:
        return "", True
    if not path or "\0" in path or len(os.fsencode(path)) > PATH_BYTES_MAX:
        raise InvalidRequest("the destination is not a path")
    absolute = os.path.abspath(path)
    return absolute, path.endswith("/") or os.path.isdir(absolute)


def _expectations(expect: Mapping[str, str]) -> dict[str, str]:
    checked = {}
    for name, value in expect.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise InvalidRequest("expect must be a mapping of algorithm to hex digest, both text")
        algorithm = name.lower()
        if algorithm not in HEX_DIGITS:
            raise InvalidRequest(f"unknown digest algorithm {name!r}: {', '.join(HEX_DIGITS)} are known")
        if len(value) != HEX_DIGITS[algorithm] or not set(value) <= set(string.hexdigits):
            raise InvalidRequest(f"a {algorithm} digest is {HEX_DIGITS[algorithm]} hex digits")
        checked[algorithm] = value.lower()
    return checked
