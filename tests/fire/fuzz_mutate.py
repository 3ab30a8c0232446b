"""Inputs made from committed ones by chance: seeded, so that a failure can be played again."""

from __future__ import annotations

import ast
import random
from collections.abc import Sequence
from pathlib import Path

CORPORA = Path(__file__).parent / "corpora"
INPUT_BYTES_MAX = 4096
_EDGES = (
    b"",
    b"\0",
    b"\r\n",
    b"\n",
    b"\t",
    b" ",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"%00",
    b"\xc2\xa0",
    b"\xe2\x80\xa8",
    b"0",
    b"9",
)


def corpus(name: str) -> list[bytes]:
    """The committed inputs of a target: one bytes literal a line."""
    lines = (CORPORA / f"{name}.txt").read_text().splitlines()
    return [ast.literal_eval(line) for line in lines]


def words_of(seeds: Sequence[bytes]) -> list[bytes]:
    """Pieces of the inputs that a parser may look for: what stands between their separators."""
    pieces: set[bytes] = set()
    for seed in seeds:
        text = seed
        for separator in (b",", b";", b"=", b":", b"/", b"\r\n", b'"', b"<", b">", b"&", b"?", b"#", b"-", b"."):
            pieces.add(separator)
            text = text.replace(separator, b" ")
        pieces.update(piece for piece in text.split() if len(piece) <= 40)
    return sorted(pieces | set(_EDGES))


class Mutator:
    """Makes inputs out of ``seeds``, by ``rng`` alone."""

    def __init__(self, rng: random.Random, seeds: Sequence[bytes]) -> None:
        self._rng = rng
        self._seeds = seeds
        self._words = words_of(seeds)

    def make(self) -> bytes:
        """A seed with some changes, seldom none."""
        rng = self._rng
        data = bytearray(rng.choice(self._seeds))
        for _ in range(rng.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
            self._change(data)
        return bytes(data[:INPUT_BYTES_MAX])

    def stretched(self, size: int) -> bytes:
        """A seed with one of its pieces repeated up to ``size`` bytes: what is not linear shows in these."""
        rng = self._rng
        seed = rng.choice(self._seeds)
        at = rng.randrange(len(seed) + 1)
        piece = (
            rng.choice((seed[at : at + rng.randrange(1, 9)], rng.choice(self._words), rng.choice(self._words))) or b"0"
        )
        return seed[:at] + piece * (size // len(piece)) + seed[at:]

    def _change(self, data: bytearray) -> None:
        rng = self._rng
        at = rng.randrange(len(data) + 1)
        match rng.randrange(8):
            case 0:
                data[at:at] = rng.choice(self._words)
            case 1:
                word = rng.choice(self._words)
                data[at : at + len(word)] = word
            case 2:
                del data[at : at + rng.choice((1, 1, 2, 4, 16))]
            case 3:
                data[at : at + 1] = bytes((rng.randrange(256),))
            case 4 if data:
                data[at % len(data)] ^= 1 << rng.randrange(8)
            case 5:
                data[at:at] = data[at : at + rng.randrange(1, 33)]
            case 6:
                other = rng.choice(self._seeds)
                data[at:] = other[rng.randrange(len(other) + 1) :]
            case _:
                data[at:at] = data[at : at + rng.randrange(1, 5)] * rng.choice((2, 3, 9, 40))
