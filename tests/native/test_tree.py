"""BLAKE3 trees against the `blake3` package and the Python twin: every kernel, any length, order and split."""

import os
import random
import subprocess
import sys
from collections.abc import Iterator

import pytest
from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from engine import native
from tests.twin import twin_parent_cv, twin_root_from_cvs, twin_root_hash, twin_subtree_cv

# The lengths of the published test vectors, whose input is 0, 1, ... 250, 0, 1, ...
VECTOR_LENGTHS = (
    *(0, 1, 2, 3, 4, 5, 6, 7, 8, 63, 64, 65, 127, 128, 129, 1023, 1024, 1025, 2048, 2049, 3072, 3073, 4096, 4097),
    *(5120, 5121, 6144, 6145, 7168, 7169, 8192, 8193, 16384, 31744, 102400),
)
EMPTY_HASH = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"


def pattern(length: int) -> bytes:
    return (bytes(range(251)) * (length // 251 + 1))[:length]


def cvs_of(data: bytes, chunk_bytes: int) -> list[bytes]:
    starts = list(range(0, len(data), chunk_bytes))
    random.Random(len(data)).shuffle(starts)
    cvs = {start: native.subtree_cv(data[start : start + chunk_bytes], start // 1024) for start in starts}
    return [cvs[start] for start in sorted(cvs)]


@pytest.fixture(params=native.simd_paths(), scope="module")
def kernel(request: pytest.FixtureRequest) -> Iterator[str]:
    before = native.simd_path()
    native.force_simd_path(request.param)
    yield request.param
    native.force_simd_path(before)


@pytest.mark.parametrize("length", VECTOR_LENGTHS)
def test_published_lengths_hash_as_the_package_does(kernel: str, length: int) -> None:
    data = pattern(length)

    assert native.root_hash(data) == blake3(data).digest()


def test_empty_input_has_the_published_hash(kernel: str) -> None:
    assert native.root_hash(b"").hex() == EMPTY_HASH


@given(length=st.integers(0, 70_000), shift=st.integers(0, 63), seed=st.integers(0, 2**32))
def test_any_length_at_any_alignment(kernel: str, length: int, shift: int, seed: int) -> None:
    data = random.Random(seed).randbytes(length + shift)

    assert native.root_hash(memoryview(data)[shift:]) == blake3(data[shift:]).digest()


@given(length=st.integers(1, 400_000), chunk_log=st.integers(0, 8), seed=st.integers(0, 2**32))
def test_cvs_in_any_order_merge_to_the_root(kernel: str, length: int, chunk_log: int, seed: int) -> None:
    data = random.Random(seed).randbytes(length)
    cvs = cvs_of(data, 1024 << chunk_log)
    merged = native.root_from_cvs(b"".join(cvs)) if len(cvs) > 1 else native.root_hash(data)

    assert merged == blake3(data).digest()


@given(leaves=st.integers(1, 33), short=st.integers(0, 1023), place=st.integers(0, 2**48), seed=st.integers(0, 2**32))
def test_a_subtree_at_any_place_equals_the_twin(leaves: int, short: int, place: int, seed: int) -> None:
    data = random.Random(seed).randbytes(leaves * 1024 - short)
    counter = place << (leaves - 1).bit_length()
    expected = twin_subtree_cv(data, counter)
    for path in native.simd_paths():
        native.force_simd_path(path)
        assert native.subtree_cv(data, counter) == expected, path
    native.force_simd_path(native.simd_paths()[0])


@pytest.mark.parametrize("counter", [2**32 - 32, 2**32, 2**54 - 32])
def test_counters_carry_into_the_high_word(kernel: str, counter: int) -> None:
    data = pattern(32 * 1024)

    assert native.subtree_cv(data, counter) == twin_subtree_cv(data, counter)


@pytest.mark.parametrize("length", [1 << 20, (1 << 20) + 1, 3 * (1 << 20) + 1025, 7 << 20])
def test_inputs_beyond_one_batch(kernel: str, length: int) -> None:
    data = pattern(length)

    assert native.root_hash(data) == blake3(data).digest()
    assert native.root_from_cvs(b"".join(cvs_of(data, 1024))) == blake3(data).digest()


@given(length=st.integers(0, 20_000), seed=st.integers(0, 2**32))
def test_the_twin_is_right(length: int, seed: int) -> None:
    data = random.Random(seed).randbytes(length)

    assert twin_root_hash(data) == blake3(data).digest()


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=2, max_size=70))
def test_merging_equals_the_twin(kernel: str, cvs: list[bytes]) -> None:
    assert native.root_from_cvs(b"".join(cvs)) == twin_root_from_cvs(cvs)


@given(st.binary(min_size=32, max_size=32), st.binary(min_size=32, max_size=32), st.booleans())
def test_parents_equal_the_twin(left: bytes, right: bytes, root: bool) -> None:
    assert native.parent_cv(left, bytearray(right), root) == twin_parent_cv(left, right, root)


def test_many_cvs_merge_beyond_one_batch() -> None:
    cvs = [blake3(bytes([i & 255, i >> 8])).digest() for i in range(2500)]

    assert native.root_from_cvs(b"".join(cvs)) == twin_root_from_cvs(cvs)


@pytest.mark.parametrize(
    ("length", "counter"),
    [(0, 0), (1025, 1), (2049, 2), (1024 * 5, 4), (1024 * 8 + 1, 8), (1, -1), (1, 2**54), (1, 2**64), (1, -(2**70))],
)
def test_what_is_no_subtree_is_refused(length: int, counter: int) -> None:
    with pytest.raises(ValueError, match=r"lea[fv]"):
        native.subtree_cv(bytes(length), counter)


def test_the_last_leaf_of_all_is_a_subtree() -> None:
    assert native.subtree_cv(b"x", 2**54 - 1) == twin_subtree_cv(b"x", 2**54 - 1)


@pytest.mark.parametrize("length", [0, 1, 31, 32, 33, 63, 65])
def test_root_from_cvs_wants_two_whole_cvs(length: int) -> None:
    with pytest.raises(ValueError, match="two or more"):
        native.root_from_cvs(bytes(length))


@pytest.mark.parametrize("sizes", [(31, 32), (32, 33), (0, 32), (64, 0)])
def test_parent_wants_two_whole_cvs(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        native.parent_cv(bytes(sizes[0]), bytes(sizes[1]))


def test_only_contiguous_buffers_and_integers() -> None:
    with pytest.raises(BufferError):
        native.root_hash(memoryview(bytes(100))[::2])
    with pytest.raises(TypeError):
        native.root_hash("text")  # type: ignore[arg-type]
    with pytest.raises(TypeError):
        native.subtree_cv(b"x", 1.0)  # type: ignore[arg-type]


def test_an_unknown_kernel_is_refused_and_changes_nothing() -> None:
    before = native.simd_path()
    for name in ("", "mmx", "avx2\0", "AVX2", "\u00e4"):
        with pytest.raises(ValueError, match="no hash kernel"):
            native.force_simd_path(name)

    assert native.simd_path() == before
    assert native.simd_paths()[-1] == "portable"


def import_under(simd: str) -> subprocess.CompletedProcess[str]:
    code = "from engine import native; print(native.simd_path())"
    environment = {**os.environ, "OFFLINE_ENGINE_SIMD": simd}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", native.simd_paths())
def test_the_environment_picks_the_kernel(name: str) -> None:
    run = import_under(name)

    assert (run.returncode, run.stdout, run.stderr) == (0, f"{name}\n", "")


def test_an_unknown_kernel_in_the_environment_fails_the_import() -> None:
    run = import_under("avx1024")

    assert run.returncode == 1
    assert "ImportError: OFFLINE_ENGINE_SIMD names no hash kernel of this machine: 'avx1024'" in run.stderr
