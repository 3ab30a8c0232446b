"""The durable records and the request they come from (DESIGN section 6). Frozen: change one with
``msgspec.structs.replace``.

Times are seconds since the epoch (UTC), sizes bytes, digests lower-case hex. Fields are only ever added, each with a
default, so that every older record still decodes. Defaults are never changed: a field that has its own is left out of
the record, which halves it, and with it what a library takes in memory and what each commit writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from engine.errors import EngineError, Fault, TransferError
from engine.model.line_policy import ANY_LINE, LinePolicy
from engine.model.states import OpenEnum, Reason, State


class Durability(OpenEnum):
    """What a set bit survives: ``strict`` a power cut, ``relaxed`` a killed process (DESIGN law 1)."""

    STRICT = "strict"
    RELAXED = "relaxed"


class OnChange(OpenEnum):
    """What becomes of a download whose source has other bytes now: begin anew with them, or fail and keep what there
    is."""

    RESTART = "restart"
    FAIL = "fail"


def without_secrets(url: str) -> str:
    """The URL without userinfo, query string and fragment: all may carry credentials."""
    scheme, mark, rest = url.partition("#")[0].partition("?")[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


# They are kept in the entry's record, which is written at each change of its state.
PIECES_MAX = 16_384


class Pieces(msgspec.Struct, frozen=True, kw_only=True):
    """Known hashes of a file's pieces: ``piece_bytes`` each, the last may be short. ``digests`` are those of
    ``algorithm``, raw, joined in file order."""

    algorithm: str
    piece_bytes: int
    digests: bytes


class BlamedSource(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A source that sent wrong bytes, and is asked no more: why that is known, and in how many chunks it was seen."""

    url: str
    reason: str
    chunks: int = 0
    at: float = 0.0

    def __repr__(self) -> str:
        return f"BlamedSource(url={without_secrets(self.url)!r}, reason={self.reason!r}, chunks={self.chunks})"


class DownloadRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller wants offline.

    ``id``: the caller's own key, at most 512 bytes of UTF-8; without one it is derived from scope, URL and the
    destination given. ``destination``: where the file shall be; an existing folder or a path that ends in ``/`` means
    "in this folder, under the server's name"; without one the file goes into the library's own folder.
    ``headers`` are sent to the URL's own origin only, and to the ``header_origins`` (``https://host[:port]``). Those
    that carry credentials (see ``secret_headers``) are kept in memory and never persisted. ``named``: the caller wrote
    the URL himself, so that a private address in it is his word; False when it was read from a document or a list: then
    headers go to the ``header_origins`` alone. ``expect``: algorithm to hex digest (blake3, sha256, sha512, sha1, md5).
    ``connections``: at most this many for this entry; None takes the configured default. ``group_id``: the group that
    it is fetched for, which takes turns with others; set by what adds groups. ``mirrors``: other URLs of the same
    bytes, the best first; ``pieces``: hashes by which each piece of the file is known to be right as soon as it comes.
    ``media_types``: what its Content-Type may be (``audio/flac``, ``video/*``); empty: anything, but no page where the
    URL promises media. ``on_change``: what to do when the source has another version before this one is complete.
    ``rate_limit_bytes_s``: no faster than this; 0 for no cap of its own. ``line``: which line may be used, and when.
    """

    url: str
    id: str | None = None
    scope: str = ""
    product_id: str = ""
    product_type: str = ""
    title: str = ""
    group_id: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    secret_headers: tuple[tuple[str, str], ...] = ()
    destination: str | None = None
    overwrite: bool = False
    expect: Mapping[str, str] = msgspec.field(default_factory=dict)
    expected_length: int | None = None
    priority: int = 0
    durability: Durability = Durability.STRICT
    connections: int | None = None
    header_origins: tuple[str, ...] = ()
    named: bool = True
    mirrors: tuple[str, ...] = ()
    pieces: Pieces | None = None
    media_types: tuple[str, ...] = ()
    on_change: OnChange = OnChange.RESTART
    rate_limit_bytes_s: int = 0
    line: LinePolicy = ANY_LINE

    def __repr__(self) -> str:
        """Without headers, userinfo and query strings: all may carry credentials."""
        return f"DownloadRequest(url={without_secrets(str(self.url))!r}, id={self.id!r})"


class ErrorRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as it is kept and shown."""

    code: str
    message: str
    fault: str = Fault.ENGINE.value
    advice: str = ""
    retryable: bool = False
    status: int | None = None
    at: float = 0.0

    @classmethod
    def of(cls, error: EngineError, at: float) -> ErrorRecord:
        """The record of ``error``, seen at time ``at``."""
        status = error.status if isinstance(error, TransferError) else None
        return cls(
            code=error.code,
            message=str(error),
            fault=error.fault.value,
            advice=error.advice,
            retryable=error.retryable,
            status=status,
            at=at,
        )


class Attempt(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One run at an entry: ``bytes_fetched`` came off the wire in it. ``error`` is None when it was not the error's
    end."""

    number: int
    started_at: float
    ended_at: float = 0.0
    bytes_fetched: int = 0
    error: ErrorRecord | None = None


class Representation(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What a source says it has. ``etag`` is a strong one with its quotes, or empty; ``last_modified`` as it came.

    ``young``: it was modified within a minute of being asked for, so the same date may still come with other bytes.
    ``other_etags``: strong ones too, found to be of the same bytes. ``digests``: what the source says the whole file
    hashes to.
    """

    length: int | None = None
    etag: str = ""
    last_modified: str = ""
    ranges: bool = False
    content_type: str = ""
    name: str = ""
    young: bool = False
    other_etags: tuple[str, ...] = ()
    digests: dict[str, str] = msgspec.field(default_factory=dict)

    @property
    def comparable(self) -> bool:
        """Whether a later answer can be told to be of the same bytes: strong ETag, or Last-Modified with a length,
        unless it is young (RFC 9110, 8.8.2.2)."""
        return bool(self.etag) or (bool(self.last_modified) and not self.young and self.length is not None)


class PartPhase(StrEnum):
    """How far a part's file is, in the order of its life (fault catalogue section 3, steps 3-6)."""

    ALLOC = "alloc"  # the name is recorded, the file may or may not exist
    ACTIVE = "active"  # the file exists with this device and inode, bits may be set
    FINALIZING = "finalizing"  # complete and checked; the final name may or may not be given
    PUBLISHED = "published"  # under its final name, durably


class PartRecord(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One file of an entry with its own chunks.

    ``folder`` holds both the unfinished ``part_name`` and the ``final_name``. ``chunks_done`` and ``bytes_done`` count
    what the bitmap claims. ``unsynced_boot``: the boot id under which bits were committed without a data sync; empty
    when every set bit's bytes are known synced. ``digest``: the BLAKE3 hash, once it is known. ``superseded``: names of
    unfinished files of older generations, kept until this one is complete (DESIGN law 3). ``replaces``: inode of the
    entry's own published file of an older generation, the only file that publishing may replace unasked. The
    ``…_version`` of an inode tells it from a later file that got its number. ``validators``: where there are several
    sources, what each said of itself, by URL.
    """

    index: int = 0
    generation: int = 1
    phase: PartPhase = PartPhase.ALLOC
    folder: str
    part_name: str
    final_name: str
    length: int | None = None
    chunk_bytes: int
    chunks_done: int = 0
    bytes_done: int = 0
    device: int = 0
    inode: int = 0
    inode_version: int = 0
    representation: Representation = Representation()
    unsynced_boot: str = ""
    digest: str = ""
    superseded: tuple[str, ...] = ()
    replaces: int = 0
    replaces_version: int = 0
    validators: dict[str, Representation] = msgspec.field(default_factory=dict)

    def __repr__(self) -> str:
        """Without what sources said, which stands under their URLs."""
        done = f"{self.bytes_done} of {self.length} bytes"
        return f"PartRecord({self.index}, {self.phase.value}, generation {self.generation}, {done}, {self.folder!r})"

    @property
    def identity(self) -> tuple[int, int, int]:
        """Device, inode and the inode's version of the file."""
        return self.device, self.inode, self.inode_version


class OfflineEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What playback needs of a completed entry. ``mtime_ns``: the file's time stamp when it was published; another one
    means that somebody changed it since. ``device``, ``inode`` and ``inode_version`` tell it from every other file;
    zeros where an older version wrote the record."""

    id: str
    path: str
    size: int
    blake3: str
    digests: dict[str, str] = msgspec.field(default_factory=dict)
    media_type: str = ""
    metadata: dict[str, str] = msgspec.field(default_factory=dict)
    manifest_hash: str = ""
    licence_ref: str = ""
    revalidate_at: float | None = None
    expires_at: float | None = None
    verified_at: float = 0.0
    mtime_ns: int = 0
    device: int = 0
    inode: int = 0
    inode_version: int = 0


class DownloadEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The durable record of one thing to have offline.

    ``destination`` is absolute; empty means the library's own folder. ``destination_is_folder`` asks for the server's
    name inside it. ``secret_header_names`` tells which credentials the source needs; their values are never kept.
    ``sequence`` is the order of adding. ``epoch`` grows when the entry starts anew: results of older epochs are
    dropped. ``pinned``: never evicted. ``last_read_at``: when somebody last held its finished file open, as far as is
    recorded. ``crashes``: how often in a row the process died while the entry ran, without one byte more on record than
    the ``crash_bytes`` of the time before. ``sources``: the URL and its mirrors, the best first; ``blamed``: those of
    them that sent wrong bytes.
    """

    id: str
    scope: str = ""
    product_id: str = ""
    product_type: str = ""
    title: str = ""
    sources: tuple[str, ...]
    headers: tuple[tuple[str, str], ...] = ()
    secret_header_names: tuple[str, ...] = ()
    destination: str = ""
    destination_is_folder: bool = True
    overwrite: bool = False
    expect: dict[str, str] = msgspec.field(default_factory=dict)
    expected_length: int | None = None
    priority: int = 0
    durability: Durability = Durability.STRICT
    connections: int | None = None
    header_origins: tuple[str, ...] = ()
    named: bool = True
    state: State = State.PENDING
    state_reason: Reason = Reason.NONE
    bytes_total: int | None = None
    attempt_count: int = 0
    attempts: tuple[Attempt, ...] = ()
    last_error: ErrorRecord | None = None
    next_retry_at: float | None = None
    created_at: float = 0.0
    updated_at: float = 0.0
    paused_at: float | None = None
    completed_at: float | None = None
    epoch: int = 1
    sequence: int = 0
    group_id: str = ""
    crashes: int = 0
    crash_bytes: int = 0
    pinned: bool = False
    last_read_at: float | None = None
    pieces: Pieces | None = None
    blamed: tuple[BlamedSource, ...] = ()
    media_types: tuple[str, ...] = ()
    on_change: OnChange = OnChange.RESTART
    rate_limit_bytes_s: int = 0
    line: LinePolicy = ANY_LINE

    @property
    def url(self) -> str:
        """The first source."""
        return self.sources[0]

    def __repr__(self) -> str:
        """Without headers and query strings: both may carry credentials."""
        why = f" ({self.state_reason.value})" if self.state_reason.value else ""
        return f"DownloadEntry({self.id!r}, {self.state.value}{why}, url={without_secrets(self.url)!r})"
