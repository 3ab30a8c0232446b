"""What is remembered of sources from one attempt to the next, in memory only: signed URLs are never stored."""

from __future__ import annotations

import math
from collections import OrderedDict

import msgspec
import trio

from engine.net.url import Origin
from engine.transfer.refresh import Place

ENTRIES_REMEMBERED_MAX = 1024
ORIGINS_REMEMBERED_MAX = 256


class Memory(msgspec.Struct):
    """What is known of one source from one attempt to the next; never stored.

    ``own``: the source's place. ``given``: by the host, instead of that. ``behind``: where its redirects led, until
    ``behind_until`` (trio's clock). ``served``: how many more answers that gave. ``redirects``: it led somewhere
    before. ``walks``: it has to be asked from its start each time. ``asked_at`` and ``walked_at``: when the host was
    asked, and a refused chain walked again. ``version`` tells whether somebody renewed it meanwhile. Who asks the host
    holds ``lock``, who walks a chain that others wait for ``walking``."""

    own: Place
    given: Place | None = None
    behind: Place | None = None
    behind_until: float = 0.0
    served: int = 0
    redirects: bool = False
    walks: bool = False
    asked_at: float = -math.inf
    walked_at: float = -math.inf
    version: int = 0
    lock: trio.Lock = msgspec.field(default_factory=trio.Lock)
    walking: trio.Lock = msgspec.field(default_factory=trio.Lock)

    def drop_behind(self, *, spent: bool = False) -> None:
        """Begin at the start again. ``spent``: the URL behind was refused; one that was good for a single answer will
        be so each time."""
        if self.behind is not None:
            self.walks = self.walks or (spent and self.served == 0)
            self.behind = None
            self.version += 1


class Memories:
    """The engine's memory of sources, bounded; and the origins that do not understand If-Range."""

    def __init__(self) -> None:
        self._sources: OrderedDict[tuple[str, str], Memory] = OrderedDict()
        self._without_if_range: OrderedDict[Origin, None] = OrderedDict()

    def of(self, entry_id: str, own: Place) -> Memory:
        """What is remembered of the entry's source; nothing when it was asked for with other header fields since."""
        key = (entry_id, str(own.url))
        memory = self._sources.get(key)
        if memory is None or memory.own != own:
            memory = self._sources[key] = Memory(own)
        self._sources.move_to_end(key)
        if len(self._sources) > ENTRIES_REMEMBERED_MAX:
            self._sources.popitem(last=False)
        return memory

    def understands_if_range(self, origin: Origin) -> bool:
        """Whether the origin never answered a matching If-Range with everything."""
        return origin not in self._without_if_range

    def no_if_range(self, origin: Origin) -> None:
        """It did."""
        self._without_if_range[origin] = None
        if len(self._without_if_range) > ORIGINS_REMEMBERED_MAX:
            self._without_if_range.popitem(last=False)
