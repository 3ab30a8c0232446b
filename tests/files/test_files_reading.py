"""Finished files read back."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from engine.config import MIB
from engine.errors import InputOutput, TargetGone
from engine.files.filesystem import FileSystem
from engine.files.reading import blocks, digest_of_path, digests
from tests.support.library import hash_of, payload_of


def test_reading_back(tmp_path: Path) -> None:
    """D7: a file that ends early is an error, never a digest of less."""
    data = payload_of(3 * MIB + 17)
    (tmp_path / "f").write_bytes(data)
    files = FileSystem()
    fd = os.open(tmp_path / "f", os.O_RDONLY)
    try:
        assert b"".join(blocks(files, fd, len(data))) == data
        assert digests(files, fd, len(data), ["blake3"]) == {"blake3": hash_of(data)}
        assert digests(files, fd, 5, ["blake3"]) == {"blake3": hash_of(data[:5])}
        assert digests(files, fd, len(data), []) == {}
        with pytest.raises(InputOutput, match="ends at byte"):
            digests(files, fd, len(data) + 1, ["blake3"])
    finally:
        os.close(fd)
    assert digest_of_path(files, str(tmp_path / "f"), "blake3") == hash_of(data)
    with pytest.raises(TargetGone):
        digest_of_path(files, str(tmp_path / "g"), "blake3")
