"""The short tier of fuzzing: every committed input and a fixed number of changed ones, the same in each run."""

from __future__ import annotations

import pytest

from tests.fire.fuzz_mutate import corpus
from tests.fire.fuzz_run import Finding, fuzz
from tests.fire.fuzz_targets import TARGETS

SEED = 6


@pytest.mark.parametrize("name", TARGETS)
def test_t11_nothing_is_found(name: str) -> None:
    entry = TARGETS[name]

    tally = fuzz(name, entry.play, seed=SEED, inputs=entry.inputs, stretch_every=entry.stretch_every)

    assert tally.inputs == max(entry.inputs, len(corpus(name)))


def broken(data: bytes) -> None:
    """A parser that cannot stand two commas in a row."""
    if b",," in data:
        raise KeyError("comma")


def slow(data: bytes) -> None:
    """A parser that looks at everything again for each byte, as fast as C can."""
    for _ in range(len(data) // 64):
        data.count(b"never there")


def test_the_fuzzer_finds_an_error_of_another_type() -> None:
    with pytest.raises(Finding, match="KeyError: 'comma'") as caught:
        fuzz("digests", broken, seed=SEED, inputs=20_000, stretch_every=0)

    assert b",," in caught.value.data


def test_the_fuzzer_finds_what_is_not_linear() -> None:
    with pytest.raises(Finding, match="four times as many bytes took"):
        fuzz("digests", slow, seed=SEED, inputs=2_000, stretch_every=100)
