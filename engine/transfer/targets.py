"""Which final paths entries of this engine aim at, so that no two race for one."""

from __future__ import annotations


class Targets:
    """Path to the id of the entry that holds it, until that entry is settled."""

    def __init__(self) -> None:
        self._holders: dict[str, str] = {}
        self._paths: dict[str, tuple[str, ...]] = {}

    def claim(self, path: str, entry_id: str) -> bool:
        """Take ``path`` for the entry; False when another one holds it."""
        holder = self._holders.setdefault(path, entry_id)
        if holder != entry_id:
            return False
        paths = self._paths.get(entry_id, ())
        if path not in paths:
            self._paths[entry_id] = (*paths, path)
        return True

    def holder(self, path: str) -> str | None:
        """The entry that holds ``path``."""
        return self._holders.get(path)

    def release(self, entry_id: str) -> None:
        """Give back all that the entry holds."""
        for path in self._paths.pop(entry_id, ()):
            del self._holders[path]
