"""Which source each chunk of a part came from, and who wants to know when one is sealed."""

from __future__ import annotations

from collections.abc import Callable

SOURCES_MAX = 255  # a byte a chunk

Listener = Callable[[int, bytes], None]


class Ledger:
    """One byte a chunk: the source's number + 1; 0 for what came in an earlier run, or not yet."""

    def __init__(self, count: int) -> None:
        self._from = bytearray(count)
        self.listeners: list[Listener] = []

    def came(self, index: int, number: int) -> None:
        """The chunk came from this source."""
        self._from[index] = number + 1

    def sealed(self, index: int, digest: bytes) -> None:
        """The chunk's bytes are in the file; ``digest`` as the store will keep it."""
        for listener in self.listeners:
            listener(index, digest)

    def source_of(self, index: int) -> int | None:
        """The number of the chunk's source; None for one of an earlier run."""
        return self._from[index] - 1 if self._from[index] else None

    def count_of(self, number: int | None) -> int:
        """How many chunks came from the source."""
        return self._from.count(_mark(number))

    def chunks_of(self, number: int | None) -> list[int]:
        """The chunks that came from the source, in order."""
        mark = _mark(number)
        found, at = [], self._from.find(mark)
        while at >= 0:
            found.append(at)
            at = self._from.find(mark, at + 1)
        return found

    def sources(self) -> set[int | None]:
        """Numbers of all sources that chunks came from."""
        return {value - 1 if value else None for value in set(self._from)}


def _mark(number: int | None) -> int:
    return 0 if number is None else number + 1
