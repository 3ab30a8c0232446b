"""What a strict entry's COMPLETED says of the folders above its file (law 2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine import DownloadRequest, Durability, open_engine
from engine.files.filesystem import FileSystem
from tests.support.library import BIG_CHUNK, CHUNK, SMALL, payload_of
from tests.support.origin import serve


class Synced(FileSystem):
    """Which folders were synced."""

    def __init__(self) -> None:
        self.folders: set[str] = set()

    def sync(self, fd: int) -> None:
        super().sync(fd)
        self.folders.add(os.readlink(f"/proc/self/fd/{fd}"))


@pytest.mark.parametrize("size", [CHUNK, 5 * BIG_CHUNK], ids=["one chunk", "several"])
async def test_a_strict_file_in_a_folder_that_a_relaxed_one_made_has_a_durable_name(
    library: Path, tmp_path: Path, size: int
) -> None:
    files = Synced()
    async with serve(payload_of(size)) as origin, open_engine(library, config=SMALL, files=files) as engine:
        for durability in (Durability.RELAXED, Durability.STRICT):
            destination = str(tmp_path / "album" / "disc" / durability.value)
            request = DownloadRequest(url=origin.url(), destination=destination, durability=durability)
            await (await engine.offline(request)).wait()
    assert {str(tmp_path), str(tmp_path / "album"), str(tmp_path / "album" / "disc")} <= files.folders
