"""Fixtures for tests of the whole engine: a root, a real nginx, a tiny disk, engines in processes of their own."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from tests.support.engine_process import EngineProcesses, engine_processes
from tests.support.mounts import TinyTmpfs, mounted_tmpfs
from tests.support.nginx import Nginx, run_nginx
from tests.support.tls import cafile_of


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """A root for an engine; nothing is there yet."""
    return tmp_path / "library"


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    """A private certificate authority."""
    return trustme.CA()


@pytest.fixture
def cafile(authority: trustme.CA, tmp_path: Path) -> str:
    """Its certificate, in a file."""
    return cafile_of(authority, tmp_path)


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nginx]:
    """A running nginx."""
    with run_nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture
def tiny_tmpfs(tmp_path: Path) -> Iterator[Callable[[int], TinyTmpfs]]:
    """Mounts a tmpfs of so many bytes, until the test ends."""
    with ExitStack() as mounts:
        yield lambda size: mounts.enter_context(mounted_tmpfs(tmp_path / "disk", size))


@pytest.fixture
async def processes() -> AsyncIterator[EngineProcesses]:
    """Engines in processes of their own."""
    async with engine_processes() as running:
        yield running
