"""Bits and CVs in pages of about 1 KiB, so that a commit never rewrites a large value (fault catalogue L19).

A page is as long as its last chunk needs; what is not there is not held. A damaged page of bits, and the bits of a
damaged page of CVs, count as missing: their chunks are fetched or verified again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from engine import native
from engine.errors import BadRecord
from engine.model.bitmap import Bitmap
from engine.model.chunks import BITS_PER_PAGE, CV_BYTES, CVS_PER_PAGE
from engine.store.codec import Payload, Table, entry_key, page_key, page_of, part_key
from engine.store.txn import Txn

_PAGE_BYTES: Final = BITS_PER_PAGE // 8
_CV_PAGE_BYTES: Final = CVS_PER_PAGE * CV_BYTES


class PartPages:
    """The chunks of one part inside one write transaction: pages of bits are loaded when touched, stored by ``flush``.

    ``damaged`` tells that bits were lost, so that counters have to be made anew.
    """

    def __init__(self, txn: Txn, entry_id: str, part_index: int) -> None:
        self.damaged = False
        self._txn = txn
        self._entry_id = entry_id
        self._key = part_key(entry_key(entry_id), part_index)
        self._pages: dict[int, bytearray] = {}
        self._changed: set[int] = set()

    def test(self, index: int) -> bool:
        """Whether the bit is set."""
        number, at = divmod(index, BITS_PER_PAGE)
        bits = self._page(number)
        return at >> 3 < len(bits) and bool(bits[at >> 3] >> (at & 7) & 1)

    def add(self, index: int) -> bool:
        """Set the bit; whether it was clear."""
        if self.test(index):
            return False
        number, at = divmod(index, BITS_PER_PAGE)
        bits = self._page(number)
        bits.extend(bytes(max(0, (at >> 3) + 1 - len(bits))))
        bits[at >> 3] |= 1 << (at & 7)
        self._changed.add(number)
        return True

    def clear(self, first: int, count: int) -> int:
        """Clear the bits; how many were set."""
        cleared = 0
        end = first + count
        while first < end:
            number, at = divmod(first, BITS_PER_PAGE)
            upto = min(BITS_PER_PAGE, at + end - first)
            bits = self._page(number)
            held = min(upto, len(bits) * 8)
            if held > at:
                before = native.bitmap_count(bits, len(bits) * 8)
                native.bitmap_clear(bits, at, held - at)
                cleared += before - native.bitmap_count(bits, len(bits) * 8)
                self._changed.add(number)
            first += upto - at
        return cleared

    def put_cvs(self, page: int, digests: dict[int, bytes]) -> None:
        """Store the CVs of chunks of one page by their index; what else is on the page stays.

        When the page was damaged or is gone, the bits of its chunks are cleared: without its CV a bit lies (law 1).
        """
        key = page_key(self._key, page)
        try:
            kept = self._txn.get(Table.CVS, key)
        except BadRecord as error:
            self._txn.note(Table.CVS, key, self._entry_id, str(error))
            kept = None
        if kept is None and self.clear(page * CVS_PER_PAGE, CVS_PER_PAGE):
            self._txn.note(Table.CVS, key, self._entry_id, "chunks were claimed without their CVs")
            self.damaged = True
        values = bytearray(kept or b"")
        values.extend(bytes(max(0, (max(digests) % CVS_PER_PAGE + 1) * CV_BYTES - len(values))))
        for index, digest in digests.items():
            at = index % CVS_PER_PAGE * CV_BYTES
            values[at : at + CV_BYTES] = digest
        self._txn.put(Table.CVS, key, values)

    def flush(self) -> None:
        """Store the pages that changed."""
        for number in sorted(self._changed):
            self._txn.put(Table.BITS, page_key(self._key, number), self._pages[number])
        self._changed.clear()

    def _page(self, number: int) -> bytearray:
        found = self._pages.get(number)
        if found is None:
            found = self._pages[number] = bytearray(self._load(number))
        return found

    def _load(self, number: int) -> bytes:
        key = page_key(self._key, number)
        try:
            return self._txn.get(Table.BITS, key) or b""
        except BadRecord as error:
            self._txn.note(Table.BITS, key, self._entry_id, str(error))
            self.damaged = True
            self._changed.add(number)
            return b""


def put_sole(txn: Txn, entry_id: str, part_index: int, digest: bytes) -> None:
    """The bit and the digest of the only chunk of a part that had none."""
    key = page_key(part_key(entry_key(entry_id), part_index), 0)
    txn.put(Table.CVS, key, digest)
    txn.put(Table.BITS, key, b"\x01")


def read_bitmap(txn: Txn, entry_id: str, part_index: int, bit_count: int) -> Bitmap:
    """The part's bits; damaged pages are noted and read as clear."""
    joined = bytearray((bit_count + 7) // 8)
    for key, payload in txn.walk(Table.BITS, part_key(entry_key(entry_id), part_index), entry_id=entry_id):
        start = page_of(key) * _PAGE_BYTES
        if payload is not None and start < len(joined):
            joined[start : start + len(payload)] = payload[: len(joined) - start]
    return Bitmap(bit_count, joined)


def read_runs(txn: Txn, entry_id: str, part_index: int, bit_count: int) -> list[tuple[int, int]]:
    """Runs ``(first, count)`` of set bits, joined across pages, scanned where they lie in the map."""
    runs: list[tuple[int, int]] = []
    for key, payload in txn.walk(Table.BITS, part_key(entry_key(entry_id), part_index), entry_id=entry_id):
        start = page_of(key) * BITS_PER_PAGE
        if payload is None or start >= bit_count:
            continue
        for at, length in _runs_in(payload, min(len(payload) * 8, bit_count - start)):
            first = start + at
            if runs and sum(runs[-1]) == first:
                runs[-1] = (runs[-1][0], runs[-1][1] + length)
            else:
                runs.append((first, length))
    return runs


def _runs_in(payload: Payload, bit_count: int) -> Iterator[tuple[int, int]]:
    at = 0
    while at < bit_count:
        first, length = native.bitmap_next_run(payload, bit_count, at, True, bit_count)
        if length == 0:
            return
        yield first, length
        at = first + length


def held_count(txn: Txn, entry_id: str, part_index: int) -> int:
    """How many bits are set; damaged pages are noted and dropped."""
    held = 0
    dropped: list[bytes] = []
    for key, payload in txn.walk(Table.BITS, part_key(entry_key(entry_id), part_index), entry_id=entry_id):
        if payload is None:
            dropped.append(key)
        else:
            held += native.bitmap_count(payload, len(payload) * 8)
    for key in dropped:
        txn.delete(Table.BITS, key)
    return held


def read_cvs(txn: Txn, entry_id: str, part_index: int, first: int, count: int) -> bytes:
    """The CVs of ``count`` chunks from ``first``, joined. Raises BadRecord for a missing, short or damaged page."""
    if count == 0:
        return b""
    key = part_key(entry_key(entry_id), part_index)
    joined = bytearray()
    page, skip = divmod(first, CVS_PER_PAGE)
    wanted = (skip + count) * CV_BYTES
    for found, payload in txn.walk(Table.CVS, key, page_key(key, page), entry_id=entry_id):
        needed = min(_CV_PAGE_BYTES, wanted)
        if page_of(found) != page or payload is None or len(payload) < needed:
            break
        joined += payload if len(payload) == needed else payload[:needed]
        wanted -= needed
        page += 1
        if wanted == 0:
            return bytes(joined[skip * CV_BYTES :]) if skip else bytes(joined)
    bad = max(first, page * CVS_PER_PAGE)
    raise BadRecord(f"the CVs of part {part_index} of '{entry_id}' are missing or damaged from chunk {bad} on")
