"""Who had the store open last, and whether it closed it: decides how much is believed after a crash."""

from __future__ import annotations

from typing import Final

import msgspec

from engine.errors import BadRecord
from engine.store.codec import Table, decode, encode
from engine.store.txn import Txn

_KEY: Final = b"session"


class _SessionRecord(msgspec.Struct, frozen=True):
    boot_id: str
    pid: int
    started_at: float
    clean: bool
    recheck: bool = False


class Session(msgspec.Struct, frozen=True):
    """This opening of the store and how the one before it ended.

    A store that was just made counts as closed cleanly. ``previous_boot_id`` is empty when there was no session before,
    or when its record was damaged (then it does not count as clean either). ``recheck``: the suspect log is to be
    hashed again, because a session ended uncleanly under another boot, and no start since has come to the end of it.
    """

    previous_clean: bool
    previous_boot_id: str
    boot_id: str
    pid: int
    started_at: float
    recheck: bool = False

    @property
    def same_boot(self) -> bool:
        """Whether the machine has run since the session before: then the page cache survived its end."""
        return self.previous_boot_id == self.boot_id


def begin_session(txn: Txn, *, boot_id: str, pid: int, now: float) -> Session:
    """Record a session that is not closed; committed before anything else is written (section 3 step 2)."""
    previous = _previous(txn)
    recheck = previous.recheck or (not previous.clean and previous.boot_id != boot_id)
    record = _SessionRecord(boot_id=boot_id, pid=pid, started_at=now, clean=False, recheck=recheck)
    txn.put(Table.META, _KEY, encode(record))
    return Session(
        previous_clean=previous.clean,
        previous_boot_id=previous.boot_id,
        boot_id=boot_id,
        pid=pid,
        started_at=now,
        recheck=recheck,
    )


def end_session(txn: Txn, session: Session) -> None:
    """Record that the session ended in order; the last act of a close. What it committed is not suspected any more:
    it was synced before, and what was not has a mark of its own. A recheck that is still owed keeps its log."""
    recheck = _previous(txn).recheck
    record = _SessionRecord(
        boot_id=session.boot_id, pid=session.pid, started_at=session.started_at, clean=True, recheck=recheck
    )
    txn.put(Table.META, _KEY, encode(record))
    if not recheck:
        txn.clear(Table.SUSPECTS)


def end_recheck(txn: Txn) -> None:
    """Record that the suspect log was hashed again."""
    txn.put(Table.META, _KEY, encode(msgspec.structs.replace(_previous(txn), recheck=False)))


def read_session(txn: Txn) -> Session:
    """The session on record, as a reader beside it sees it: nothing is known of the one before."""
    record = _previous(txn)
    return Session(
        previous_clean=record.clean,
        previous_boot_id=record.boot_id,
        boot_id=record.boot_id,
        pid=record.pid,
        started_at=record.started_at,
    )


def _previous(txn: Txn) -> _SessionRecord:
    try:
        payload = txn.get(Table.META, _KEY)
        if payload is not None:
            return decode(payload, _SessionRecord)
    except BadRecord as error:
        txn.note(Table.META, _KEY, "", str(error))
        return _SessionRecord(boot_id="", pid=0, started_at=0.0, clean=False)
    return _SessionRecord(boot_id="", pid=0, started_at=0.0, clean=True)
