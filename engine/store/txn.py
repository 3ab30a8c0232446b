"""One LMDB transaction with sealed values: the only place where raw LMDB values are read or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import lmdb

from engine.errors import BadRecord
from engine.store.codec import KEY_SIZES, Payload, Table, seal, unseal
from engine.store.damage import Damage, DamageLog

if TYPE_CHECKING:  # lmdb's types take parameters in its stubs only
    Raw = lmdb.Transaction[bytes] | lmdb.Transaction[memoryview]

Handles = Mapping[Table, lmdb._Database]


class Txn:
    """Lives inside one function call on one thread; nothing it returns from ``walk`` may outlive it (L3, L5, L17)."""

    __slots__ = ("_damages", "_handles", "_raw", "at_end")

    def __init__(self, raw: Raw, handles: Handles, damages: DamageLog) -> None:
        self._raw = raw
        self._handles = handles
        self._damages = damages
        self.at_end: dict[str, Callable[[], None]] = {}  # what is written once for all that shared the transaction

    def get(self, table: Table, key: bytes) -> bytes | None:
        """A copy of the payload; None when there is none. Raises BadRecord."""
        value = self._raw.get(key, db=self._handles[table])
        return None if value is None else bytes(unseal(table, key, value))

    def has(self, table: Table, key: bytes) -> bool:
        """Whether there is a value, sound or not."""
        return self._raw.get(key, db=self._handles[table]) is not None

    def put(self, table: Table, key: bytes, payload: bytes | bytearray) -> None:
        """Write a value, replacing what is there."""
        self._raw.put(key, seal(table, key, payload), db=self._handles[table])

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove a value; False when there was none."""
        return self._raw.delete(key, db=self._handles[table])

    def keys(self, table: Table, prefix: bytes = b"", start: bytes = b"") -> Iterator[bytes]:
        """Keys that begin with ``prefix``, from ``start`` on, in order; those that cannot be keys are left out."""
        with self._raw.cursor(self._handles[table]) as cursor:
            if not cursor.set_range(start or prefix):
                return
            for key in cursor.iternext(values=False):
                owned = bytes(key)
                if not owned.startswith(prefix):
                    return
                if len(owned) == KEY_SIZES.get(table, len(owned)):
                    yield owned

    def walk(
        self, table: Table, prefix: bytes = b"", start: bytes = b"", *, entry_id: str = ""
    ) -> Iterator[tuple[bytes, Payload | None]]:
        """Key and payload of each value below ``prefix``; None for a damaged one, which is noted under ``entry_id``.

        One whose very key is damaged so that it cannot be one is noted and left out.
        """
        with self._raw.cursor(self._handles[table]) as cursor:
            if not cursor.set_range(start or prefix):
                return
            for key, value in cursor:
                owned = bytes(key)
                if not owned.startswith(prefix):
                    return
                try:
                    payload = unseal(table, owned, value)
                except BadRecord as error:
                    self.note(table, owned, entry_id, str(error))
                    if len(owned) == KEY_SIZES.get(table, len(owned)):
                        yield owned, None
                else:
                    yield owned, payload

    def delete_below(self, table: Table, prefix: bytes) -> None:
        """Remove every value whose key begins with ``prefix``."""
        with self._raw.cursor(self._handles[table]) as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete() and bool(cursor.key())

    def clear(self, table: Table) -> None:
        """Remove every value of a table."""
        self._raw.drop(self._handles[table], delete=False)

    def note(self, table: Table, key: bytes, entry_id: str, detail: str) -> None:
        """Report damage; it is kept whatever becomes of the transaction."""
        self._damages.note(Damage(table=table.name.lower(), key=key.hex(), entry_id=entry_id, detail=detail))
