"""Two real mirrors with 256 MiB, one of which flips a bit every 10 MiB: the issue's own measure, at full size."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from engine import DownloadRequest, OfflineEntry, Pieces, RunStats, open_engine
from engine.config import MIB
from tests.support.nginx import Nginx, run_nginx

pytestmark = pytest.mark.long

SIZE = 256 * MIB + 12_345
FLIP_BYTES = 10 * MIB


class Mirrors:
    """The right bytes on one server, those with flipped bits on another."""

    def __init__(self, right: Nginx, wrong: Nginx) -> None:
        rng = random.Random(7)
        self.payload = b"".join(rng.randbytes(min(MIB, SIZE - at)) for at in range(0, SIZE, MIB))
        bad = bytearray(self.payload)
        for at in range(FLIP_BYTES - 1, SIZE, FLIP_BYTES):
            bad[at] ^= 0x20
        self.right, self.wrong = right.put("film.bin", self.payload), wrong.put("film.bin", bytes(bad))
        digests = [hashlib.sha256(self.payload[at : at + MIB]).digest() for at in range(0, SIZE, MIB)]
        self.pieces = Pieces(algorithm="sha256", piece_bytes=MIB, digests=b"".join(digests))
        self.sha256 = hashlib.sha256(self.payload).hexdigest()


@pytest.fixture(scope="module")
def mirrors(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mirrors]:
    """Two servers of their own."""
    with ExitStack() as stack:
        servers = [stack.enter_context(run_nginx(tmp_path_factory.mktemp(name))) for name in ("right", "wrong")]
        yield Mirrors(*servers)


async def fetch(library: Path, request: DownloadRequest) -> tuple[OfflineEntry, RunStats, list[str]]:
    """The finished file, what it took, and the sources that were named."""
    async with open_engine(library) as engine:
        download = await engine.offline(request)
        offline = await download.wait()
        entry = await engine.get(download.id)
        return offline, download.stats, [blame.url for blame in entry.blamed]


@pytest.mark.parametrize("proof", ["pieces, the bad one first", "pieces, the good one first", "the hash of the whole"])
async def test_at_most_a_twentieth_is_fetched_twice(library: Path, mirrors: Mirrors, proof: str) -> None:
    urls = (mirrors.wrong, mirrors.right) if "bad" in proof else (mirrors.right, mirrors.wrong)
    if "pieces" in proof:
        request = DownloadRequest(url=urls[0], mirrors=urls[1:], pieces=mirrors.pieces)
    else:
        request = DownloadRequest(url=urls[0], mirrors=urls[1:], expect={"sha256": mirrors.sha256})
    offline, stats, named = await fetch(library, request)
    assert Path(offline.path).read_bytes() == mirrors.payload
    assert named == [mirrors.wrong]
    assert stats.bytes_fetched <= 1.05 * SIZE


async def test_without_pieces_a_bad_first_source_costs_the_whole(library: Path, mirrors: Mirrors) -> None:
    """Of two that differ nothing but the hash of the whole tells who is right, and that only in the end."""
    request = DownloadRequest(url=mirrors.wrong, mirrors=(mirrors.right,), expect={"sha256": mirrors.sha256})
    offline, stats, named = await fetch(library, request)
    assert Path(offline.path).read_bytes() == mirrors.payload
    assert named == [mirrors.wrong]
    assert stats.bytes_fetched <= 2.05 * SIZE
