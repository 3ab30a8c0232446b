"""Fixtures of the native tests. OFFLINE_ENGINE_TEST_EXAMPLES sets how many examples hypothesis tries in each."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from engine.native import BufferPool, Sealer
from tests.native.sealing import CHUNK
from tests.twin import InlineSealer

settings.register_profile(
    "native", max_examples=int(os.environ.get("OFFLINE_ENGINE_TEST_EXAMPLES", "100")), deadline=None
)
settings.load_profile("native")


@pytest.fixture
def pool() -> BufferPool:
    return BufferPool(4, CHUNK)


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path / "part", os.O_RDWR | os.O_CREAT | os.O_EXCL)
    yield fd
    os.close(fd)


@pytest.fixture(params=[Sealer, InlineSealer])
def either(request: pytest.FixtureRequest) -> Iterator[Sealer]:
    with request.param(2, 4) as sealer:
        yield sealer
