"""The controllers of groups and scopes over an open engine."""

from __future__ import annotations

from collections.abc import Iterable

from engine import DownloadRequest, Engine
from engine.control.groups import Groups
from engine.control.scopes import Scopes
from engine.model.groups import GroupRequest

Members = tuple[tuple[DownloadRequest, int, int], ...]


def controllers(engine: Engine) -> tuple[Groups, Scopes]:
    """Groups and scopes as the engine has them."""
    manager = engine._manager
    groups = Groups(engine._services, ask=manager.ask, ask_many=manager.ask_many, remove=manager.remove)
    return groups, Scopes(engine._services, groups, remove=manager.remove, remove_all=manager.remove_all)


def tracks(base: str, names: Iterable[str], **fields: object) -> Members:
    """A track for each name (or letter), in order: its id is the name, its URL ends in it."""
    return tuple(
        (DownloadRequest(url=f"{base}/{name}", id=name, title=name, **fields), 1, position)  # type: ignore[arg-type]
        for position, name in enumerate(names)
    )


def album(base: str, names: Iterable[str], group_id: str = "g", **fields: object) -> GroupRequest:
    """An album of such tracks."""
    scope = str(fields.get("scope", ""))
    return GroupRequest(id=group_id, kind="album", title=group_id, scope=scope, members=tracks(base, names, **fields))
