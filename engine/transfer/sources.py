"""The sources of one entry: which is asked next, which are left out, and what each said of itself.

Bytes of several sources are mixed freely only where each piece can be checked by itself (known piece hashes). Without
them one source leads and the others stand by, to take over, or to help where they are clearly faster: what was taken
from a source that turns out bad has to be fetched again, and no hash of the whole file tells which chunks are wrong.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import trio

from engine.errors import Changed, EngineError, IntegrityError, StorageError, TransferError
from engine.model.records import DownloadEntry, PartRecord, Representation
from engine.net.connection import Exchange
from engine.net.trust import parse_origin
from engine.net.url import Url, parse_url
from engine.transfer.ledger import Ledger
from engine.transfer.refresh import Fields
from engine.transfer.scores import Score
from engine.transfer.services import Services
from engine.transfer.whereabouts import Whereabouts

# A source that failed is left alone so long, doubling, while there are others.
PARK_S, PARK_S_MAX = 2.0, 60.0
# One that stands by helps when a connection to it is so much faster than one to the leading source.
PAYS = 4 / 3
# With checked pieces a source gets connections by its rate, but never so few that its rate is forgotten.
SHARE_MIN = 0.05


class Source(msgspec.Struct, eq=False):
    """A URL that a part comes from. Counts what came off the wire.

    ``where``: where it is to be found now, for its URL may redirect, expire or be replaced. ``representation``: what
    its answers must agree with; None: what the part's record says. ``out``: why it is asked no more. ``trusted``: it
    began the part, or bytes of its own agreed with those of another; ``compared``: as many of them as are looked at.
    ``blamed``: it sent wrong bytes. ``active``: spans under way. ``others``: of the same entry.
    """

    where: Whereabouts
    url: Url
    number: int = 0
    representation: Representation | None = None
    score: Score = msgspec.field(default_factory=Score)
    out: str = ""
    trusted: bool = False
    compared: bool = False
    blamed: bool = False
    failures: int = 0
    parked_until: float = 0.0
    active: int = 0
    others: tuple[Source, ...] = ()
    bytes_received: int = 0
    _open: set[Exchange] = msgspec.field(default_factory=set)

    @property
    def name(self) -> str:
        """For people: its URL without what may be secret."""
        return self.url.redacted()

    def known(self, record: PartRecord) -> Representation:
        """What its answers must agree with."""
        return record.representation if self.representation is None else self.representation

    async def open(self, start: int | None, end: int | None) -> Exchange:
        """Ask for ``[start, end)``, or for the whole with ``start`` None."""
        exchange = await self.where.open(None if start is None else (start, end))
        if self.has_spare(trio.current_time()):
            exchange.has_spare()
        self._open.add(exchange)
        return exchange

    def has_spare(self, now: float) -> bool:
        """Whether another is free, of which nothing bad is known: two that fail in turn must not cut each other off."""
        return any(
            not (other.out or other.failures) and other.parked_until <= now and not other.score.failing(now)
            for other in self.others
        )

    def done(self, exchange: Exchange) -> None:
        """Give the exchange back, to the pool if it ended well."""
        self._open.discard(exchange)
        self.bytes_received += exchange.received
        self.where.note_end(exchange, self.url.origin.host)
        exchange.release()

    @property
    def bytes_so_far(self) -> int:
        """Body bytes received, those of running exchanges included."""
        return self.bytes_received + sum(exchange.received for exchange in self._open)


class Sources:
    """All sources of an entry, the best first. ``checked``: each piece is checked by a known hash. ``doubted``:
    those that differ from another, and in what."""

    def __init__(self, all_of_them: Iterable[Source], *, checked: bool = False) -> None:
        self.all = tuple(all_of_them)
        self.checked = checked
        self.lead = self.all[0]
        self.doubted: dict[Source, str] = {}
        for source in self.all:
            source.others = tuple(other for other in self.all if other is not source)
        self._passing: TransferError | None = None
        self._ledger: tuple[int, Ledger] = (0, Ledger(0))

    @classmethod
    def of(cls, services: Services, entry: DownloadEntry, fields: Fields, now: float) -> Sources:
        """The entry's sources; those that failed lately come last. Its header fields go to its first one's origin, if
        that is the caller's own word, and to those that it binds them to. Those that sent wrong bytes are left out,
        unless that is all of them."""
        blamed = {blame.url for blame in entry.blamed}
        if blamed >= set(entry.sources):
            blamed = set()
        home = {parse_origin(text) for text in entry.header_origins}
        if entry.named:
            home.add(parse_url(entry.url).origin)
        made = []
        for number, text in enumerate(entry.sources):
            url = parse_url(text)
            own = fields if url.origin in home else ()
            where = Whereabouts(services, entry, url, own, named=entry.named)
            source = Source(where, url, number, score=services.scores.of(str(url.origin)))
            source.blamed = text in blamed
            source.out = "it sent wrong bytes" if source.blamed else ""
            made.append(source)
        made.sort(key=lambda source: (source.blamed, source.score.failing(now)))
        return cls(made, checked=entry.pieces is not None)

    @property
    def several(self) -> bool:
        """Whether there are more than one."""
        return len(self.all) > 1

    @property
    def usable(self) -> list[Source]:
        """Those that are not left out."""
        return [source for source in self.all if not source.out]

    @property
    def bytes_so_far(self) -> int:
        """Body bytes off the wire, of all of them."""
        return sum(source.bytes_so_far for source in self.all)

    def expect_like(self, representation: Representation) -> None:
        """All answers should bring the same kind of thing."""
        for source in self.all:
            source.where.expect_like(representation)

    def ledger_of(self, generation: int, count: int) -> Ledger:
        """Which of them each chunk of that generation came from, as far as this attempt knows."""
        if self._ledger[0] != generation:
            self._ledger = generation, Ledger(count)
        return self._ledger[1]

    def numbered(self, number: int) -> Source:
        """The source with this number."""
        return next(source for source in self.all if source.number == number)

    def begin_with(self, source: Source) -> None:
        """It gives the first bytes of a new part."""
        self.lead = source
        source.trusted = True

    def bind(self, record: PartRecord) -> None:
        """From now on answers are for this part: each source's are compared with what it said of itself before. Two
        mirrors have different validators; only length and hashes hold for all of them."""
        for source in self.all if self.several else ():
            said = record.validators.get(str(source.url))
            if said is not None:
                source.representation = said
                source.trusted |= source is self.lead
            elif record.validators or source.number:
                source.representation = Representation(length=record.length, ranges=True)
            else:
                source.representation, source.trusted = None, True  # the part was begun with this one alone

    def pick(self, now: float, avoid: Source | None = None) -> Source:
        """Whom to ask next; another than ``avoid`` if there is one. Raises IntegrityError when all are left out."""
        usable = self.usable
        if not usable:
            reasons = "; ".join(f"{source.name}: {source.out}" for source in self.all)
            raise IntegrityError(f"no source is left: {reasons}")
        if len(usable) == 1:
            return usable[0]
        awake = [source for source in usable if source.parked_until <= now]
        if not awake:
            return min(usable, key=lambda source: source.parked_until)
        others = [source for source in awake if source is not avoid] or awake
        if self.checked:
            best = max(source.score.rate_bytes_s for source in awake)
            return min(others, key=lambda source: (source.active + 1) / _weight(source, best))
        if avoid is not None:
            return others[0]
        if self.lead not in awake:
            self.lead = next((source for source in awake if source.trusted), awake[0])
        return max(awake, key=self._speed)

    def _speed(self, source: Source) -> float:
        """The leading source comes first, but for one that was compared and is clearly faster by what was measured."""
        if source is self.lead:
            return source.score.rate_bytes_s * PAYS
        helps = source.compared and source.score.measured and self.lead.score.measured
        return source.score.rate_bytes_s if helps else -1.0

    def failed(self, source: Source, error: EngineError, now: float) -> bool:
        """A request to it ended so. True when another can be asked in its place, at once; then it is left alone for a
        while, or left out."""
        source.score.failed_at = now
        source.failures += 1
        others = [other for other in self.usable if other is not source]
        if not others or not _of_a_source(error):
            return False
        assert isinstance(error, TransferError)  # noqa: S101  # only those are of a source
        if error.retryable and not isinstance(error, Changed):
            pause = error.retry_after_s or PARK_S * 2.0 ** min(16, source.failures - 1)
            source.parked_until = now + min(pause, PARK_S_MAX)
            self._passing = error
        else:
            self.leave_out(source, str(error))
        return any(other.parked_until <= now for other in others)

    def succeeded(self, source: Source) -> None:
        """A span of it came."""
        source.failures = 0

    def slow(self, source: Source, now: float) -> None:
        """It is much slower than another: that one leads."""
        source.parked_until = now + PARK_S_MAX
        self._follow(source)

    def leave_out(self, source: Source, why: str) -> None:
        """Ask it no more."""
        source.out = why
        self._follow(source)

    def doubt(self, source: Source, why: str) -> None:
        """Its bytes differ from another's, and the hash of the whole file is to tell who is right."""
        self.doubted[source] = why
        self.leave_out(source, why)

    def _follow(self, source: Source) -> None:
        if self.lead is source:
            ranked = sorted(self.usable, key=lambda other: (other.parked_until, not other.trusted))
            self.lead = next((other for other in ranked if other is not source), source)

    def verdict(self, error: EngineError) -> EngineError:
        """What to tell when no source can be asked: that one may work later counts more than that another never
        will."""
        if self._passing is not None and isinstance(error, TransferError) and not error.retryable and self.usable:
            return self._passing
        return error


def _of_a_source(error: EngineError) -> bool:
    """Whether another source may do better: not where the disk fails, or what came contradicts what is expected."""
    if isinstance(error, IntegrityError):
        return error.retryable  # it was damaged on its way
    return isinstance(error, TransferError) and not isinstance(error, StorageError)


def _weight(source: Source, best: float) -> float:
    """A source's share of the connections: by its rate, in full while that is not known."""
    if not source.score.measured or best <= 0:
        return 1.0
    return max(SHARE_MIN, source.score.rate_bytes_s / best)
