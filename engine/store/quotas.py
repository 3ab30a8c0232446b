"""What the files of a scope may take together, where somebody set that: rows of META, by scope."""

from __future__ import annotations

from typing import Final

import msgspec

from engine.errors import BadRecord
from engine.store.codec import Table, decode, encode, scope_key
from engine.store.txn import Txn

_PREFIX: Final = b"quota:"


class QuotaRecord(msgspec.Struct, frozen=True):
    """``quota_bytes`` of ``scope``; 0 for no bound, whatever the configuration says."""

    scope: str
    quota_bytes: int


def put(txn: Txn, scope: str, quota_bytes: int | None) -> None:
    """Record the quota of a scope; None takes it back."""
    key = _PREFIX + scope_key(scope)
    if quota_bytes is None:
        txn.delete(Table.META, key)
    else:
        txn.put(Table.META, key, encode(QuotaRecord(scope, quota_bytes)))


def all_of(txn: Txn) -> dict[str, int]:
    """The quotas by scope. A damaged one is noted and left out: then the configured quota holds."""
    found: dict[str, int] = {}
    for key, payload in txn.walk(Table.META, _PREFIX):
        if payload is None:
            continue
        try:
            record = decode(payload, QuotaRecord)
        except BadRecord as error:
            txn.note(Table.META, key, "", str(error))
        else:
            found[record.scope] = record.quota_bytes
    return found
