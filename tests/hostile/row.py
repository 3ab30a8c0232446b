"""One row of the hostile table: who is hostile, how, and what must come of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import Enum

from engine.model.states import Reason
from engine.net.trust import Trust
from tests.hostile.answers import Play, Truth, told


class Pass(Enum):
    """How a row is played. With ``BYTES`` the engine receives one byte at a time."""

    FIRST = "first"
    BYTES = "bytes"
    RESUMED = "resumed"  # over an entry that has chunks from an honest hour


ALL = frozenset(Pass)
RESUMED = frozenset({Pass.RESUMED})
FROM_THE_START = ALL - RESUMED
KIB = 1024
MIB = 1024 * KIB


def honest(truth: Truth) -> list[bytes]:
    """The plain truth."""
    return [told(truth)]


@dataclass(frozen=True, kw_only=True)
class Row:
    """``id``: of the fault catalogue. ``play``: the hostile answer to each request for the bad file.

    ``line``: instead of, or besides, hostile answers: a context in which the way to the host is bad; it is given the
    server's URL and returns the URL to ask for. ``code``: of the error that the entry ends with, empty when it
    completes with what ``final`` makes of the payload. ``reason``: it is PAUSED for that, not FAILED. ``killed``: no
    connection carries another request after an answer of the row. ``seconds``: virtual, all tries and backoffs
    together. ``sent_max``: bytes that the hostile side gets rid of in all, ``memory``: what Python may hold at the
    peak. ``mends``: the same entry completes once the server is
    honest; ``one_version``: what is claimed in the end is of ``final``.
    """

    id: str
    name: str
    play: Play = honest
    line: Callable[[str], AbstractContextManager[str]] | None = None
    code: str = ""
    status: int | None = None
    reason: Reason | None = None
    final: Callable[[bytes], bytes] = lambda payload: payload
    killed: bool = True
    seconds: float = 120.0
    sent_max: int = 1 * MIB
    memory: int = 4 * MIB
    attempts_max: int = 8
    passes: frozenset[Pass] = ALL
    request: Mapping[str, object] = field(default_factory=dict)
    config: Mapping[str, object] = field(default_factory=dict)
    tls: bool = False
    trust: Trust = field(default_factory=Trust)
    mends: bool = True
    one_version: bool = True

    @property
    def label(self) -> str:
        return f"{self.id} {self.name}"
