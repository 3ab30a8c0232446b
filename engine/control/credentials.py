"""Header values that are never stored (DESIGN law 9), for as long as the engine is open: so that an entry that was
paused, failed or is to be repaired can go on without being asked for again."""

from __future__ import annotations

from engine.control.attempts import Fields
from engine.model.records import DownloadEntry


class Credentials:
    """Secret header fields by entry, as they were given with its newest request. ``host_gives``: what is missing, the
    host's resolver is asked for."""

    def __init__(self, *, host_gives: bool = False) -> None:
        self._secret: dict[str, Fields] = {}
        self._host_gives = host_gives

    def keep(self, entry_id: str, secret: Fields) -> None:
        """These are the entry's from now on; none when there are none."""
        if secret:
            self._secret[entry_id] = secret
        else:
            self.forget(entry_id)

    def of(self, entry_id: str) -> Fields:
        """What is known for the entry."""
        return self._secret.get(entry_id, ())

    def forget(self, entry_id: str) -> None:
        """The entry is gone, or will not be asked for with these again."""
        self._secret.pop(entry_id, None)

    def missing(self, entry: DownloadEntry) -> bool:
        """Whether the entry needs credentials that nobody gave to this engine, or will."""
        return bool(entry.secret_header_names) and entry.id not in self._secret and not self._host_gives
