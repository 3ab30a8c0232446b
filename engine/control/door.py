"""Who may call the engine: tasks of the trio run that opened it, while it is open. Every method of its face asks here.

A call from elsewhere would not fail where it is made: it would wake tasks of another loop, or change from two threads
at once what has one owner (DESIGN law 7).
"""

from __future__ import annotations

import functools
import inspect
import sys
from collections.abc import Callable, Collection
from typing import Any, Protocol, TypeVar

import trio

from engine.errors import WrongThread


class Door:
    """Made where the engine is opened. :meth:`check` costs less than a microsecond."""

    def __init__(self) -> None:
        self._token = trio.lowlevel.current_trio_token()
        self._host = _asyncio_task()

    def check(self, what: str) -> None:
        """Raise WrongThread unless the caller is in the run, and on the thread, that opened the engine."""
        try:
            token = trio.lowlevel.current_trio_token()
        except RuntimeError as error:
            raise WrongThread(f"{what} was called from a thread, or at a time, in which trio does not run") from error
        if token is not self._token:
            raise WrongThread(f"{what} was called from another trio run than the one that opened the engine")
        if _asyncio_task() is not self._host:
            raise WrongThread(f"{what} was called from asyncio, which runs inside the engine's trio run")


async def check_in_trio() -> None:
    """Raise WrongThread where no trio runs, or another loop runs inside of one: for the opening."""
    try:
        trio.lowlevel.current_trio_token()
        await trio.lowlevel.cancel_shielded_checkpoint()
    except RuntimeError as error:  # what trio says without a run, or another loop of what only trio understands
        raise WrongThread("the engine is opened by a task of trio, and this is none (see the advice)") from error


def _asyncio_task() -> object | None:
    """The asyncio task on this thread, if any. A trio run may be nested in one (a notebook's cell), or be its guest."""
    asyncio = sys.modules.get("asyncio")
    if asyncio is None or asyncio._get_running_loop() is None:
        return None
    task: object | None = asyncio.current_task()
    return task


class _Guarded(Protocol):
    def _enter(self, what: str) -> None: ...


_Face = TypeVar("_Face", bound=type[_Guarded])


def guarded(*, beyond_close: Collection[str] = ()) -> Callable[[_Face], _Face]:
    """A class decorator: every public method and property asks ``_enter(what)`` first, which raises WrongThread and
    EngineClosed; so that a new one cannot be forgotten. ``beyond_close``: those that only read memory, and are left
    alone, because what they tell is asked for when all is over."""

    def decorate(face: _Face) -> _Face:
        for name, member in list(vars(face).items()):
            if name.startswith("_") or name in beyond_close:
                continue
            what = f"{face.__name__}.{name}"
            if isinstance(member, property) and member.fget is not None:
                setattr(face, name, property(_entering(member.fget, what), doc=member.__doc__))
            elif inspect.isfunction(member):
                setattr(face, name, _entering(member, what))
        return face

    return decorate


def _entering(method: Callable[..., Any], what: str) -> Callable[..., Any]:
    @functools.wraps(method)
    async def entered(self: _Guarded, *args: Any, **kwargs: Any) -> Any:
        self._enter(what)
        return await method(self, *args, **kwargs)

    @functools.wraps(method)
    def called(self: _Guarded, *args: Any, **kwargs: Any) -> Any:
        self._enter(what)
        return method(self, *args, **kwargs)

    return entered if inspect.iscoroutinefunction(method) else called
