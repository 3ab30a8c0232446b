"""A store in a folder of its own for every test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from engine.config import Config
from engine.files.filesystem import FileSystem
from engine.store.state_store import StateStore


@pytest.fixture
def root(tmp_path: Path) -> str:
    """The root's path; nothing is there yet."""
    return str(tmp_path / "library")


@pytest.fixture
def store(root: str) -> Iterator[StateStore]:
    """An open store, closed after the test."""
    opened = StateStore.open(root, Config(), FileSystem(), now=1.0)
    yield opened
    opened.close()
