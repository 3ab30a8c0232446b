"""The command line in this process, a root of its own for every test, and an origin with two files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.cli.main import main
from tests.cli.support import LARGE, SMALL, Said, WatchedOrigin


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Where the library will be; nothing is there yet."""
    return tmp_path / "library"


@pytest.fixture
def served(tmp_path: Path) -> dict[str, str]:
    """URL paths and the files behind them."""
    folder = tmp_path / "served"
    folder.mkdir()
    (folder / "small").write_bytes(SMALL)
    (folder / "large").write_bytes(LARGE)
    return {"/small.bin": str(folder / "small"), "/large.bin": str(folder / "large")}


@pytest.fixture
def origin(served: dict[str, str]) -> Iterator[WatchedOrigin]:
    """An origin as fast as it can be."""
    with WatchedOrigin(served) as running:
        yield running


@pytest.fixture
def cli(root: Path, capfd: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Run the command line on ``root`` in this process."""

    def call(*arguments: str | Path) -> Said:
        capfd.readouterr()
        code = main(["--root", str(root), *map(str, arguments)])
        return Said(code, *capfd.readouterr())

    return call
