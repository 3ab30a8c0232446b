"""Memory of mapped files that is given up, and what stands in it afterwards."""

from __future__ import annotations

import mmap
import re
from pathlib import Path

from engine.files.filesystem import FileSystem

SIZE = 1 << 20


def resident(path: Path) -> int:
    """KiB of the file that are resident through this process's mappings of it."""
    of_one = re.compile(rf"^[0-9a-f]+-.* {re.escape(str(path))}$\n(?:^\w+:.*\n)*?^Rss: +(\d+) kB", re.MULTILINE)
    return sum(int(found) for found in of_one.findall(Path("/proc/self/smaps").read_text()))


def test_shared_mappings_of_the_file_are_given_up_and_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "a name with spaces"
    path.write_bytes(b"a" * SIZE)
    with open(path, "r+b") as file, mmap.mmap(file.fileno(), SIZE) as mapped:
        mapped[:] = b"b" * SIZE
        before = resident(path)

        released = FileSystem().release_mapped(str(path))

        assert (before, released, resident(path)) == (SIZE // 1024, SIZE, 0)
        assert mapped[:] == b"b" * SIZE


def test_private_mappings_and_other_files_are_left_alone(tmp_path: Path) -> None:
    for name in ("mine", "other"):
        (tmp_path / name).write_bytes(b"a" * SIZE)
    with (
        open(tmp_path / "mine", "rb") as mine,
        open(tmp_path / "other", "r+b") as other,
        mmap.mmap(mine.fileno(), SIZE, access=mmap.ACCESS_COPY) as private,
        mmap.mmap(other.fileno(), SIZE) as shared,
    ):
        private[:] = shared[:] = b"b" * SIZE

        assert FileSystem().release_mapped(str(tmp_path / "mine")) == 0
        assert (private[:], resident(tmp_path / "other")) == (b"b" * SIZE, SIZE // 1024)
