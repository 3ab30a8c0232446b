"""The write gate of a scope that is being emptied: a mark in the store, so that it holds for every way in, whatever
asks, and the next start finds what a crash left unfinished."""

from __future__ import annotations

from typing import Final

import msgspec

from engine.errors import BadRecord, ScopeResetting
from engine.model.records import DownloadEntry
from engine.store.codec import Table, decode, encode, scope_key
from engine.store.txn import Txn

_PREFIX: Final = b"reset:"


class ResetMark(msgspec.Struct, frozen=True):
    """A reset of ``scope`` that has begun and not ended."""

    scope: str
    started_at: float


def begin(txn: Txn, scope: str, now: float) -> None:
    """Close the gate. Doing so again changes nothing but the time."""
    txn.put(Table.META, _key(scope), encode(ResetMark(scope, now)))


def end(txn: Txn, scope: str) -> None:
    """Open the gate."""
    txn.delete(Table.META, _key(scope))


def closed(txn: Txn, scope: str) -> bool:
    """Whether the scope is being emptied."""
    return txn.has(Table.META, _key(scope))


def check(txn: Txn, scope: str) -> None:
    """Raises ScopeResetting while the scope is being emptied."""
    if closed(txn, scope):
        raise ScopeResetting(f"the scope {scope!r} is being reset")


def unfinished(txn: Txn) -> list[str]:
    """The scopes whose reset has not ended. A damaged mark is taken for what the scope's own entries say; without any
    there is nothing left to reset, and it goes (when the transaction may write)."""
    found: list[str] = []
    for key, payload in txn.walk(Table.META, _PREFIX):
        scope = _scope_of_entries(txn, key[len(_PREFIX) :]) if payload is None else decode(payload, ResetMark).scope
        if scope is not None:
            found.append(scope)
    return found


def drop_damaged(txn: Txn) -> None:
    """Take away damaged marks that no entry gives a name to: they would keep a scope closed for ever."""
    marks = [key for key, payload in txn.walk(Table.META, _PREFIX) if payload is None]
    for key in marks:
        if _scope_of_entries(txn, key[len(_PREFIX) :]) is None:
            txn.delete(Table.META, key)


def _scope_of_entries(txn: Txn, prefix: bytes) -> str | None:
    for _, key in txn.walk(Table.BY_SCOPE, prefix):
        try:
            payload = txn.get(Table.ENTRIES, bytes(key)) if key is not None else None
            if payload is not None:
                return decode(payload, DownloadEntry).scope
        except BadRecord as error:
            txn.note(Table.ENTRIES, bytes(key or b""), "", str(error))
    return None


def _key(scope: str) -> bytes:
    return _PREFIX + scope_key(scope)
