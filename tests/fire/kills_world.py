"""What the kill loop downloads, and how its engines are configured: the same for the engine that is killed, for the
origin that serves it and for the judge.
"""

from __future__ import annotations

import os
from functools import cache
from zlib import crc32

import msgspec

from engine import DownloadRequest, Durability
from engine.config import KIB, MIB
from tests.support.library import BIG_CHUNK, CHUNK, payload_of, small
from tests.support.origin import PIECE_BYTES

CONNECTIONS_MAX = 8
CONFIG = small(
    entries_at_once=6,
    connections_max=CONNECTIONS_MAX,
    reconcile_interval_s=0.2,
    settle_interval_s=0.2,
    maintenance_delay_s=0.1,
    maintenance_interval_s=0.3,
    orphan_grace_s=0.0,
    idle_timeout_s=10.0,
    first_byte_timeout_s=10.0,
    connect_timeout_s=10.0,
)

# What one kill may cost of the received bytes: the commit window, and of each connection the chunk being filled and
# what was read with it. By the count of the origin, beside it, what the kernel had not handed over to a busy engine.
LOSS_BYTES_MAX = CONFIG.commit_window_bytes + CONNECTIONS_MAX * (BIG_CHUNK + 2 * PIECE_BYTES)
SENT_LOSS_BYTES_MAX = LOSS_BYTES_MAX + CONNECTIONS_MAX * 256 * KIB

ALONE = tuple(
    f"{kind}-{number}" for kind, count in (("big", 2), ("mid", 3), ("few", 4), ("one", 8)) for number in range(count)
)
TRACKS = ("few", "one", "one", "mid", "one")
GROUPS = ("g0", "g1")
SIZES = {"big": 8 * MIB, "mid": 600 * KIB, "few": 3 * CHUNK, "one": CHUNK - 200}


class Life(msgspec.Struct, frozen=True, kw_only=True):
    """One engine that is going to be killed. ``calm``: nobody stops or removes anything, so that every byte that was
    sent counts. ``traced``: begin once a tracer is there. ``finale``: finish everything and end in order.
    ``mutant``: how this engine is wrong, to see that the judge finds it."""

    root: str
    base: str
    journal: str
    seed: str
    calm: bool = False
    traced: bool = False
    finale: bool = False
    mutant: str = ""


def members_of(group: str) -> tuple[str, ...]:
    """The entries of a group."""
    return tuple(f"{kind}-{group}-{place}" for place, kind in enumerate(TRACKS))


def group_of(entry_id: str) -> str | None:
    """The group that an entry is a member of."""
    parts = entry_id.split("-")
    return parts[1] if len(parts) == 3 else None


@cache
def payload(entry_id: str) -> bytes:
    """The bytes of an entry: its kind says about how many, its name which."""
    number = crc32(entry_id.encode())
    return payload_of(SIZES[entry_id.split("-", maxsplit=1)[0]] + number % 150, seed=number)


def request(base: str, entry_id: str) -> DownloadRequest:
    """Asks for an entry; half of them are strict."""
    durability = Durability.STRICT if crc32(entry_id.encode()) % 2 else Durability.RELAXED
    connections = 4 if entry_id.startswith("big") else None
    return DownloadRequest(url=f"{base}/{entry_id}.bin", id=entry_id, durability=durability, connections=connections)


def id_of_target(target: str) -> str:
    """The entry that a request of the engine is for."""
    return os.path.splitext(target.rsplit("/", 1)[-1])[0]
