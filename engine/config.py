"""Every limit and default of the engine: its unit in its name, its reason beside it.

One frozen :class:`Config` goes into :func:`engine.open_engine`; nothing else in the engine holds a number of its own
that a user might want to change.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from engine.errors import InvalidRequest

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB
TIB = 1024 * GIB


# Limits that may be nothing; of everything else there must be some.
ZERO_ALLOWED = frozenset(
    {
        *("free_space_reserve_bytes", "idle_connections_per_host", "idle_connection_s", "redirects_max"),
        *("interim_responses_max", "trailer_bytes_max", "retry_after_s_max", "backoff_base_s", "backoff_max_s"),
        *("commit_interval_s", "parallel_bytes_min", "receive_low_water_bytes", "records_only"),
        *("entries_per_host", "connections_per_host", "connections_per_entry"),
        *("host_rest_wait_s", "rate_limit_bytes_s"),
        *("allow_metered", "metered_bytes_max", "network_settle_s"),
        *("scope_quota_bytes", "evict_least_recent", "maintenance_delay_s", "orphan_grace_s", "stale_entry_days"),
    }
)
MOMENT_S = 0.001
RATE_LIMIT_MIN = 1 * KIB  # a slower cap would keep connections from their server's attention for minutes


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """Limits and defaults. Raises InvalidRequest when a value cannot work."""

    # Chunks: the unit of committing and verifying. Small ones cost 0.1 ms of CPU each, and on a slow line they end a
    # file sooner: the last chunk of each connection is a quarter as long.
    chunk_bytes: int = 1 * MIB
    small_chunk_bytes: int = 256 * KIB
    small_file_bytes: int = 256 * MIB
    part_bytes_max: int = 16 * TIB  # a Content-Length beyond this is a lie, refused before anything is allocated (S27)

    # The one bound on memory: chunk buffers of `chunk_bytes`, touched only when used.
    buffer_count: int = 32
    seal_threads: int = 2  # hashing runs at GiB/s a core: one thread hashes while another writes

    # Commits. Uncommitted bytes never exceed the window, so a crash loses at most that (law 6).
    commit_window_bytes: int = 64 * MIB
    commit_interval_s: float = 0.5

    # Spans: one Range request each. Small first (it is the probe), then a share of what is left.
    first_span_bytes: int = 4 * MIB
    span_bytes_min: int = 4 * MIB
    span_bytes_max: int = 64 * MIB
    parallel_bytes_min: int = 8 * MIB  # below this, a second connection costs more than it brings

    # Connections.
    connections_per_entry: int = 0  # for who does not say; 0: as many as measured goodput pays for
    connections_per_entry_max: int = 16
    connections_max: int = 32
    connections_per_host: int = 0  # 0: as many as in all
    entries_at_once: int = 5
    entries_per_host: int = 0  # 0: as many as at once; with less, nobody waits behind one slow host
    records_only: bool = False  # nothing runs: for who only changes entries, and leaves at once
    idle_connections_per_host: int = 16
    idle_connection_s: float = 30.0

    # Connections by measured goodput, for all entries of a host together. Each step up is kept only while it pays.
    connections_start: int = 2
    connections_per_host_grown: int = 8  # safe with unknown CDNs; a line that loses packets may have all an entry may
    growth_hold_s: float = 30.0  # behind a step that did not pay, or a refusal
    growth_look_interval_s: float = 0.05
    span_s: float = 6.0  # of work for one request, within `span_bytes_min` and `…_max`
    crawl_bytes_s: int = 4 * KIB  # slower than this, or than a quarter of the median, a connection is replaced …
    crawl_s: float = 10.0  # … when it was so for this long, and had as long before

    # Hosts in trouble, for all their entries together.
    host_rest_wait_s: float = 2.0  # a host that rests no longer is waited for where one is; 0 for never
    breaker_failures: int = 8  # in a row, without an answer between
    breaker_open_s: float = 2.0  # until one request tries again; doubling
    breaker_open_max_s: float = 60.0

    # Bandwidth, of all entries together.
    rate_limit_bytes_s: int = 0  # 0 for no cap; changed while running by Engine.set_rate_limit

    # URLs that end. The one behind a redirect is kept in memory, so that not every span walks the chain.
    redirect_kept_s: float = 300.0  # less than a signed URL commonly lives; a refusal ends it sooner
    url_expiry_lead_s: float = 30.0  # a fresh one is asked for so long before: a span must not begin on its last second
    resolve_interval_s: float = 5.0  # for one source, between two walks or two questions to the host's resolver
    resolver_timeout_s: float = 30.0

    # Which line: what a policy leaves open.
    allow_metered: bool = True  # where nobody says what is metered, nothing is; who minds says so
    metered_bytes_max: int = 0  # of one entry, on a metered line; 0 for any size
    network_settle_s: float = 2.0  # a line that is back stays that long, and up to half as much more, before it is used

    # Times. No total timeout anywhere: a slow stream that makes progress is healthy, if it is more than a drip.
    connect_timeout_s: float = 10.0
    tls_timeout_s: float = 10.0
    first_byte_timeout_s: float = 30.0
    idle_timeout_s: float = 30.0
    close_timeout_s: float = 10.0  # for the last commit when the engine is closed

    # HTTP heads (fault catalogue S16-S23).
    status_line_bytes_max: int = 1 * KIB
    head_bytes_max: int = 32 * KIB
    head_fields_max: int = 100
    head_feed_bytes: int = 16 * KIB
    interim_responses_max: int = 8
    trailer_bytes_max: int = 4 * KIB
    redirects_max: int = 10
    retry_after_s_max: float = 6 * 3600.0

    # Space.
    free_space_reserve_bytes: int = 64 * MIB  # kept free beside the file itself, for the store and everyone else
    scope_quota_bytes: int = 0  # what the files of one scope may take together; 0 for no such bound
    evict_least_recent: bool = False  # a download is no cache: finished files only make room when the host says so
    space_check_interval_s: float = 5.0  # how soon an entry that waits for space is looked at again; doubling
    space_check_interval_max_s: float = 60.0

    # Clean-up.
    maintenance_interval_s: float = 6 * 3600.0
    maintenance_delay_s: float = 300.0  # after the start, which has better to do
    orphan_grace_s: float = 3600.0  # a file that nothing knows is left alone while it is younger
    stale_entry_days: float = 30.0  # what failed and cancelled entries hold on disk is kept this long; 0 for ever

    # Sockets: one wake-up per this many bytes once a connection is fast, and a bounded amount per turn of the loop.
    receive_low_water_bytes: int = 256 * KIB
    receive_turn_bytes: int = 512 * KIB

    # Store.
    map_bytes: int = 1 * GIB  # sparse; grows by doubling when full
    attempts_kept: int = 20
    progress_interval_s: float = 0.25
    settle_interval_s: float = 30.0  # how soon relaxed files are synced behind their back, and doubtful ones hashed
    reconcile_interval_s: float = 30.0  # how soon what is on record and what runs are brought together again

    # Commands of other processes.
    inbox_commands_max: int = 10_000  # waiting ones; a sender beyond that is refused
    inbox_at_once: int = 64  # commands, and entries of a command for all, that are changed at the same time
    inbox_look_interval_s: float = 1.0  # the promise to who rings in vain: a file system without sockets
    inbox_result_kept_s: float = 3600.0  # who asked has fetched it long before

    # Retry: full jitter, doubling. The counter starts again with every committed chunk.
    backoff_base_s: float = 0.5
    backoff_max_s: float = 60.0

    @property
    def running_max(self) -> int:
        """How many entries may run."""
        return 0 if self.records_only else self.entries_at_once

    def __post_init__(self) -> None:
        self._check_kinds()
        for name in ("chunk_bytes", "small_chunk_bytes"):
            size = getattr(self, name)
            if size < KIB or size & (size - 1):
                raise InvalidRequest(f"{name} must be a power of two of at least 1024, not {size}")
        if self.small_chunk_bytes > self.chunk_bytes:
            raise InvalidRequest("small_chunk_bytes must not exceed chunk_bytes")
        if self.buffer_count < 2:
            raise InvalidRequest("buffer_count must be at least 2: one to fill while one is sealed")
        if self.seal_threads == 0:
            raise InvalidRequest("seal_threads must be at least 1")
        if self.commit_window_bytes < 2 * self.chunk_bytes:
            raise InvalidRequest("commit_window_bytes must hold at least two chunks")
        if not 0 <= self.connections_per_entry <= self.connections_per_entry_max:
            raise InvalidRequest("connections_per_entry must be between 0 and connections_per_entry_max")
        for name in self.__slots__:
            value = getattr(self, name)
            least = 0 if name in ZERO_ALLOWED else MOMENT_S if name.endswith("_s") else 1
            if not value >= least:
                raise InvalidRequest(f"{name} must be at least {least}, not {value}")

    def _check_kinds(self) -> None:
        """Numbers are numbers: NaN compares with nothing, so that no limit would hold."""
        for field in fields(self):
            value, kind = getattr(self, field.name), type(field.default)
            if kind is bool and value not in (False, True):
                raise InvalidRequest(f"{field.name} must be True or False, not {value!r}")
            if kind not in {int, float}:
                continue
            whole = isinstance(value, int) and not isinstance(value, bool)
            if not whole and not (kind is float and isinstance(value, float) and value == value):  # noqa: PLR0124  # NaN
                raise InvalidRequest(f"{field.name} must be a {'whole ' * (kind is int)}number, not {value!r}")


DEFAULT_CONFIG = Config()
