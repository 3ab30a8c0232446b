"""One LMDB transaction with sealed values: the only place where raw LMDB values are read or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Final

import lmdb

from engine.errors import BadRecord
from engine.store.codec import KEY_SIZES, Payload, Table, seal, unseal
from engine.store.damage import Damage, DamageLog

if TYPE_CHECKING:  # lmdb's types take parameters in its stubs only
    Raw = lmdb.Transaction[bytes] | lmdb.Transaction[memoryview]

Handles = Mapping[Table, lmdb._Database]


# What the store remembers of its last commits: the tables that every step of an entry reads again, and how many values.
REMEMBERED: Final = frozenset({Table.ENTRIES, Table.PARTS, Table.OFFLINE})
REMEMBERED_MAX: Final = 2048

Recent = dict[tuple[Table, bytes], bytes]


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

    def get_many(self, table: Table, keys: Sequence[bytes]) -> Iterator[tuple[bytes, bytes | None]]:
        """Each key, which an index names, with a copy of its payload; None for one that is not there or is damaged,
        which is noted. In one call of LMDB: each lets go of the GIL and has to get it again."""
        self.settle(table)
        with self._raw.cursor(self._handles[table]) as cursor:
            values = {bytes(key): value for key, value in cursor.getmulti(keys)}
        for key in keys:
            payload, problem = None, "an index names an entry that is not there"
            if key in values:
                try:
                    payload = bytes(unseal(table, key, values[key]))
                except BadRecord as error:
                    problem = str(error)
            if payload is None:
                self.note(table, key, "", problem)
            yield key, payload

    def has(self, table: Table, key: bytes) -> bool:
        """Whether there is a value, sound or not."""
        return self._raw.get(key, db=self._handles[table]) is not None

    def put(self, table: Table, key: bytes, payload: bytes | bytearray) -> None:
        """Write a value, replacing what is there."""
        self._raw.put(key, seal(table, key, payload), db=self._handles[table])

    def delete(self, table: Table, key: bytes) -> bool:
        """Remove a value; False when there was none."""
        return self._raw.delete(key, db=self._handles[table])

    def discard(self, table: Table, key: bytes) -> None:
        """Remove a value if there is one."""
        self._raw.delete(key, db=self._handles[table])

    def settle(self, table: Table) -> None:
        """Have LMDB know what was written to the table so far; done before whatever walks through it."""

    def keys(self, table: Table, prefix: bytes = b"", start: bytes = b"") -> Iterator[bytes]:
        """Keys that begin with ``prefix``, from ``start`` on, in order; those that cannot be keys are left out."""
        self.settle(table)
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
        self.settle(table)
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
        self.settle(table)
        with self._raw.cursor(self._handles[table]) as cursor:
            found = cursor.set_range(prefix)
            while found and bytes(cursor.key()).startswith(prefix):
                found = cursor.delete() and bool(cursor.key())

    def clear(self, table: Table) -> None:
        """Remove every value of a table."""
        self.settle(table)
        self._raw.drop(self._handles[table], delete=False)

    def note(self, table: Table, key: bytes, entry_id: str, detail: str) -> None:
        """Report damage; it is kept whatever becomes of the transaction."""
        self._damages.note(Damage(table=table.name.lower(), key=key.hex(), entry_id=entry_id, detail=detail))


class WriteTxn(Txn):
    """A transaction that hands its values to LMDB in one go, a table at a time.

    py-lmdb lets go of the interpreter's lock around every single value, and a busy event loop takes it each time: a
    batch of sixty values took seven milliseconds that way, and two in one go. ``recent`` are payloads of the last
    commits, which need no reading: nobody else writes the tables that are in it.
    """

    __slots__ = ("_recent", "_unwritten", "forgets", "written")

    def __init__(self, raw: Raw, handles: Handles, damages: DamageLog, recent: Recent) -> None:
        super().__init__(raw, handles, damages)
        self._recent = recent
        self._unwritten: dict[Table, dict[bytes, bytes | None]] = {}
        self.written: Recent = {}
        self.forgets = False

    def get(self, table: Table, key: bytes) -> bytes | None:
        if table in REMEMBERED:
            place = table, key
            known = self.written.get(place)
            if known is None and not self.forgets:
                known = self._recent.get(place)
            if known is not None:
                return known
        values = self._unwritten.get(table)
        if values is not None and key in values:
            value = values[key]
            return None if value is None else bytes(unseal(table, key, value))
        return super().get(table, key)

    def has(self, table: Table, key: bytes) -> bool:
        values = self._unwritten.get(table)
        if values is not None and key in values:
            return values[key] is not None
        return super().has(table, key)

    def put(self, table: Table, key: bytes, payload: bytes | bytearray) -> None:
        self._unwritten.setdefault(table, {})[key] = seal(table, key, payload)
        if table in REMEMBERED:
            self.written[table, key] = bytes(payload)

    def delete(self, table: Table, key: bytes) -> bool:
        present = self.has(table, key)
        self.discard(table, key)
        return present

    def discard(self, table: Table, key: bytes) -> None:
        self._unwritten.setdefault(table, {})[key] = None
        if table in REMEMBERED:
            self._forget()

    def delete_below(self, table: Table, prefix: bytes) -> None:
        super().delete_below(table, prefix)
        if table in REMEMBERED:
            self._forget()

    def clear(self, table: Table) -> None:
        super().clear(table)
        if table in REMEMBERED:
            self._forget()

    def settle(self, table: Table) -> None:
        values = self._unwritten.pop(table, None)
        if values is None:
            return
        handle = self._handles[table]
        items = []
        for key, value in values.items():
            if value is None:
                self._raw.delete(key, db=handle)
            else:
                items.append((key, value))
        if len(items) == 1:
            self._raw.put(*items[0], db=handle)
        elif items:
            with self._raw.cursor(handle) as cursor:
                cursor.putmulti(items)

    def settle_all(self) -> None:
        """Have LMDB know all that was written."""
        for table in list(self._unwritten):
            self.settle(table)

    def _forget(self) -> None:
        """Values were removed: what is remembered may be of them."""
        self.written.clear()
        self.forgets = True
