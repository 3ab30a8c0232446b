"""The hash kernel by SIMD path and size, and the package beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from blake3 import blake3

from benchmarks.micro.timing import Timing
from engine import native

SIZES = {"1KiB": 1 << 10, "16KiB": 16 << 10, "256KiB": 256 << 10, "1MiB": 1 << 20}


@pytest.fixture(params=native.simd_paths())
def simd_path(request: pytest.FixtureRequest) -> Iterator[str]:
    """Each path of this machine, forced."""
    chosen = native.simd_path()
    native.force_simd_path(request.param)
    yield request.param
    native.force_simd_path(chosen)


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_subtree_cv(benchmark: Timing, simd_path: str, size: int) -> None:
    data = os.urandom(size)
    benchmark.extra_info |= {"bytes": size, "path": simd_path}

    found = benchmark(native.subtree_cv, data, 0)

    assert len(found) == native.DIGEST_BYTES


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES.keys())
def test_blake3_package(benchmark: Timing, size: int) -> None:
    data = os.urandom(size)
    benchmark.extra_info |= {"bytes": size, "path": "package"}

    found = benchmark(lambda: blake3(data).digest())

    assert found == native.root_hash(data)


def test_root_of_a_thousand_chunks(benchmark: Timing) -> None:
    cvs = os.urandom(1024 * native.DIGEST_BYTES)

    found = benchmark(native.root_from_cvs, cvs)

    assert len(found) == native.DIGEST_BYTES
