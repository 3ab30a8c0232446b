"""A set of chunk numbers as bits: *set = bytes on disk and CV recorded*."""

from __future__ import annotations

from collections.abc import Iterator

from engine import native


class Bitmap:
    """``bit_count`` bits, scanned and counted by the native kernels."""

    __slots__ = ("_bits", "_held", "bit_count")

    def __init__(self, bit_count: int, bits: bytes | bytearray | None = None) -> None:
        """From ``bits`` (bit i is ``bits[i >> 3] >> (i & 7) & 1``), or empty. Raises ValueError when they are too
        few."""
        size = (bit_count + 7) // 8
        if bits is not None and len(bits) < size:
            raise ValueError(f"{bit_count} bits need {size} bytes, not {len(bits)}")
        self.bit_count = bit_count
        self._bits = bytearray(size) if bits is None else bytearray(bits[:size])
        self._held = native.bitmap_count(self._bits, bit_count)

    def __len__(self) -> int:
        return self.bit_count

    def __contains__(self, index: int) -> bool:
        return 0 <= index < self.bit_count and bool(self._bits[index >> 3] >> (index & 7) & 1)

    def __bytes__(self) -> bytes:
        return bytes(self._bits)

    @property
    def held(self) -> int:
        """How many bits are set."""
        return self._held

    @property
    def complete(self) -> bool:
        """Whether every bit is set."""
        return self._held == self.bit_count

    def add(self, first: int, count: int = 1) -> None:
        """Set ``count`` bits from ``first``; setting a set bit changes nothing."""
        if first < 0 or count < 0 or first + count > self.bit_count:
            raise IndexError(f"bits {first}..{first + count} of {self.bit_count}")
        if count == 1:
            self._held += first not in self
            self._bits[first >> 3] |= 1 << (first & 7)
            return
        native.bitmap_set(self._bits, first, count)
        self._held = native.bitmap_count(self._bits, self.bit_count)

    def remove(self, first: int, count: int = 1) -> None:
        """Clear ``count`` bits from ``first``: what was there is not what it should be."""
        if first < 0 or count < 0 or first + count > self.bit_count:
            raise IndexError(f"bits {first}..{first + count} of {self.bit_count}")
        native.bitmap_clear(self._bits, first, count)
        self._held = native.bitmap_count(self._bits, self.bit_count)

    def runs(self, value: bool = True) -> Iterator[tuple[int, int]]:
        """All runs ``(first, length)`` of bits equal to ``value``, in order."""
        at = 0
        while at < self.bit_count:
            first, length = native.bitmap_next_run(self._bits, self.bit_count, at, value, self.bit_count)
            if length == 0:
                return
            yield first, length
            at = first + length
