"""Metalink documents, version 4 (RFC 5854): which files, where they are, and by which hashes they are known.

What is read comes from anywhere: the parser knows no DTD and no entities, and everything is bounded while it is read.
What the document says of other things than files (its publisher, its own updates) is passed over; a URL that is neither
http nor https too.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final, NamedTuple
from xml.parsers import expat

import msgspec
from msgspec.structs import replace

from engine.config import MIB, TIB
from engine.errors import InvalidRequest
from engine.files.names import safe_path
from engine.model.records import PIECES_MAX, DownloadRequest, Pieces
from engine.net.addresses import is_special
from engine.net.url import parse_url

DOCUMENT_BYTES_MAX: Final = 8 * MIB
DEPTH_MAX: Final = 16
FILES_MAX: Final = 10_000
URLS_MAX: Final = 64  # of one file, the best; more are passed over
TEXT_CHARS_MAX: Final = 16_384
LENGTH_MAX: Final = 16 * TIB
PRIORITY_LAST: Final = 999_999
SUFFIX: Final = ".meta4"
MEDIA_TYPE: Final = "application/metalink4+xml"

_NAMESPACE: Final = "urn:ietf:params:xml:ns:metalink"
# By the names of IANA's registry of hash functions; with the length of their hex form, the strongest first.
_ALGORITHMS: Final = {
    "sha-512": ("sha512", 128),
    "sha-384": ("sha384", 96),
    "sha-256": ("sha256", 64),
    "sha-1": ("sha1", 40),
    "md5": ("md5", 32),
}
_HEX: Final = frozenset("0123456789abcdef")


class _Location(NamedTuple):
    priority: int
    order: int
    url: str


class _PieceList(msgspec.Struct):
    algorithm: str
    piece_bytes: int
    digests: list[str] = msgspec.field(default_factory=list)


class _File(msgspec.Struct):
    name: str
    length: int | None = None
    urls: list[_Location] = msgspec.field(default_factory=list)
    hashes: dict[str, str] = msgspec.field(default_factory=dict)
    pieces: list[_PieceList] = msgspec.field(default_factory=list)


def requests_from_metalink(
    document: bytes, *, template: DownloadRequest | None = None, source: str | None = None
) -> tuple[DownloadRequest, ...]:
    """A request for each file of the document, in its order. ``template``: what else they have in common (headers,
    priority …); its own URL does not count, and its destination, when it ends in ``/`` or there are several files, is
    the folder that they go to, by the document's names. ``source``: the URL that the document was fetched from. When
    a redirect led to another origin on the way, the document is no longer the caller's word: give a template with
    ``named=False``, and no ``source`` for its header fields to go to.

    Names are made safe: whatever a document asks for, its files go into or below the folder that the caller wants them
    in (``CD 1/01.flac`` into a folder of it). Header fields go to ``header_origins`` and to where the document came
    from, never to whom it names. URLs in one that the caller has as a file, or got from an address that he named, count
    as his own word (``named``). Hashes of more than ``PIECES_MAX`` pieces are left out; the hash of the whole file
    still counts. Raises InvalidRequest.
    """
    files = _Reader().read(document)
    common = _bound(template or DownloadRequest(url=""), source)
    if len(files) > 1 and common.id is not None:
        raise InvalidRequest(f"an id is for one file, and the document lists {len(files)}")
    if len(files) > 1 and (common.expect or common.expected_length is not None):
        raise InvalidRequest(f"a digest or length is expected of one file, and the document lists {len(files)}")
    names = [_path_of(file) for file in files]
    if len(set(names)) < len(names):
        raise InvalidRequest("the document gives two of its files one name")
    several = len(files) > 1
    return tuple(_request(file, name, common, several=several) for file, name in zip(files, names, strict=True))


def _bound(common: DownloadRequest, source: str | None) -> DownloadRequest:
    """The template with header fields bound to origins that the caller chose, and its word no wider than he gave it."""
    home = None if source is None else parse_url(source)
    if not (common.headers or common.secret_headers):
        return replace(common, named=common.named and (home is None or is_special(home.host)))
    if home is None and not common.header_origins:
        raise InvalidRequest("header fields for the files of a Metalink need the origins that they are for")
    own = () if home is None else (str(home.origin),)
    return replace(common, named=False, header_origins=(*common.header_origins, *own))


def _request(file: _File, name: str, common: DownloadRequest, *, several: bool) -> DownloadRequest:
    if not file.urls:
        raise InvalidRequest(f"the document tells no http or https URL of {name!r}")
    best, *others = dict.fromkeys(location.url for location in sorted(file.urls)[:URLS_MAX])
    return replace(
        common,
        url=best,
        mirrors=tuple(others),
        destination=_place(common.destination, name, several=several),
        expect={**_best_hash(file), **common.expect},
        expected_length=file.length if file.length is not None else common.expected_length,
        pieces=_strongest(file),
        title=common.title or os.path.basename(name),
    )


def _path_of(file: _File) -> str:
    try:
        return safe_path(file.name)
    except ValueError as error:
        raise InvalidRequest(f"the document names {file.name[:80]!r}: {error}") from error


def _place(destination: str | None, name: str, *, several: bool) -> str | None:
    if destination is None or not (several or destination.endswith("/")):
        return destination
    return f"{destination.rstrip('/')}/{name}"


def _best_hash(file: _File) -> dict[str, str]:
    """The hash of the whole file by the best algorithm that is known: each one more costs a reading of the file."""
    best = next((name for name, _ in _ALGORITHMS.values() if name in file.hashes), None)
    return {} if best is None else {best: file.hashes[best]}


def _strongest(file: _File) -> Pieces | None:
    """The hashes of pieces by the best algorithm that is known. Raises InvalidRequest when they are too few or many."""
    ranks = [name for name, _ in _ALGORITHMS.values()]
    for pieces in sorted(file.pieces, key=lambda pieces: ranks.index(pieces.algorithm)):
        count = len(pieces.digests)
        if count > PIECES_MAX:
            continue
        if file.length is not None and count != -(-file.length // pieces.piece_bytes):
            raise InvalidRequest(f"{count} hashes of pieces do not describe the {file.length} bytes of {file.name!r}")
        if count:
            joined = bytes.fromhex("".join(pieces.digests))
            return Pieces(algorithm=pieces.algorithm, piece_bytes=pieces.piece_bytes, digests=joined)
    return None


class _Reader:
    """One pass over a document, by expat's events."""

    def __init__(self) -> None:
        self.files: list[_File] = []
        self._path: list[str] = []
        self._attributes: list[dict[str, str]] = []
        self._text: list[str] = []
        self._chars = 0
        self._pieces: _PieceList | None = None

    def read(self, document: bytes) -> Sequence[_File]:
        """Its files. Raises InvalidRequest."""
        if len(document) > DOCUMENT_BYTES_MAX:
            raise InvalidRequest(f"a Metalink document of more than {DOCUMENT_BYTES_MAX} bytes is not read")
        parser = expat.ParserCreate(namespace_separator=" ")
        parser.StartDoctypeDeclHandler = _refuse_doctype
        parser.StartElementHandler = self._begin
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._more
        try:
            parser.Parse(document, True)
        except expat.ExpatError as error:
            raise InvalidRequest(f"this is no Metalink document: {error}") from error
        except InvalidRequest:
            raise
        except (LookupError, ValueError) as error:  # an encoding that nobody knows
            raise InvalidRequest("this is no Metalink document: its encoding is not known") from error
        if not self.files:
            raise InvalidRequest("the Metalink document lists no file")
        return self.files

    def _begin(self, tag: str, attributes: dict[str, str]) -> None:
        namespace, _, name = tag.rpartition(" ")
        if not self._path and (namespace, name) != (_NAMESPACE, "metalink"):
            raise InvalidRequest("this is no Metalink document of version 4 (RFC 5854)")
        if len(self._path) >= DEPTH_MAX:
            raise InvalidRequest(f"the Metalink document is nested deeper than {DEPTH_MAX}")
        self._path.append(name if namespace == _NAMESPACE else "")
        self._attributes.append(attributes)
        self._text, self._chars = [], 0
        if self._path == ["metalink", "file"]:
            if len(self.files) >= FILES_MAX:
                raise InvalidRequest(f"the Metalink document lists more than {FILES_MAX} files")
            self.files.append(_File(attributes.get("name", "")))
        elif self._path == ["metalink", "file", "pieces"]:
            self._pieces = _piece_list(attributes)

    def _more(self, text: str) -> None:
        self._chars += len(text)
        if self._chars > TEXT_CHARS_MAX:
            raise InvalidRequest(f"the Metalink document holds a text of more than {TEXT_CHARS_MAX} characters")
        self._text.append(text)

    def _end(self, _tag: str) -> None:
        text, attributes = "".join(self._text).strip(), self._attributes.pop()
        path, self._text, self._chars = tuple(self._path), [], 0
        self._path.pop()
        if path[:2] != ("metalink", "file"):
            return
        file = self.files[-1]
        match path[2:]:
            case ("size",):
                file.length = _number("size", text, LENGTH_MAX)
            case ("url",):
                self._add_url(file, text, attributes)
            case ("hash",):
                _add_hash(file, text, attributes)
            case ("pieces", "hash") if self._pieces is not None:
                self._add_piece(self._pieces, text)
            case ("pieces",) if self._pieces is not None:
                file.pieces.append(self._pieces)
                self._pieces = None

    def _add_url(self, file: _File, text: str, attributes: dict[str, str]) -> None:
        if text.lower().startswith(("http://", "https://")):
            priority = _number("priority", attributes.get("priority", str(PRIORITY_LAST)), PRIORITY_LAST)
            file.urls.append(_Location(priority, len(file.urls), text))

    def _add_piece(self, pieces: _PieceList, text: str) -> None:
        if len(pieces.digests) <= PIECES_MAX:  # one more than are kept: then none are
            pieces.digests.append(_hex(pieces.algorithm, text))


def _refuse_doctype(*_declaration: object) -> None:
    raise InvalidRequest("a Metalink document with a DOCTYPE is not read")


def _piece_list(attributes: dict[str, str]) -> _PieceList | None:
    known = _ALGORITHMS.get(attributes.get("type", "").lower())
    if known is None:
        return None
    length = _number("length of pieces", attributes.get("length", ""), LENGTH_MAX)
    if length < 1:
        raise InvalidRequest("the Metalink document has pieces without a length")
    return _PieceList(known[0], length)


def _add_hash(file: _File, text: str, attributes: dict[str, str]) -> None:
    known = _ALGORITHMS.get(attributes.get("type", "").lower())
    if known is not None:
        algorithm = known[0]
        digest = _hex(algorithm, text)
        if file.hashes.setdefault(algorithm, digest) != digest:
            raise InvalidRequest(f"the Metalink document tells two {algorithm} hashes of one file")


def _hex(algorithm: str, text: str) -> str:
    digits = next(digits for name, digits in _ALGORITHMS.values() if name == algorithm)
    if len(text) != digits or not set(text.lower()) <= _HEX:
        raise InvalidRequest(f"the Metalink document holds a {algorithm} hash that is none")
    return text.lower()


def _number(what: str, text: str, most: int) -> int:
    if not (text.isascii() and text.isdecimal()) or len(text) > len(str(most)) or int(text) > most:
        raise InvalidRequest(f"the Metalink document holds a {what} that is no number up to {most}")
    return int(text)
