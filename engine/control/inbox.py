"""The engine's side of the inbox: takes the commands that other processes left, carries them out, tells how they ended.

In the order of asking for each entry, many entries at once; a command for all waits for those before it, and those
behind it wait for it. The engine learns of commands by its doorbell. It also looks once a second: a bell may not be had
(a file system without sockets) or be gone (somebody cleaned the folder up), and then "within a second" still holds; a
look reads one key of a mapped file, which is cheaper than to find out whether the bell still hangs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Protocol

import msgspec
import trio

from engine.control.each import for_each
from engine.control.manager import Manager
from engine.control.requests import split_fields
from engine.errors import (
    BadRecord,
    EngineClosed,
    EngineError,
    IllegalTransition,
    InternalError,
    InvalidRequest,
    StorageError,
    StoreError,
    UnknownEntry,
    sole_error,
)
from engine.model.commands import Command, CommandResult, Outcome, Verb, is_gone, took_place
from engine.model.records import DownloadRequest, ErrorRecord
from engine.store.bell import Bell
from engine.store.inbox import Begun, Row
from engine.transfer.services import Services

log = logging.getLogger("engine")

# Does what a command says to one entry. Raises EngineError.
Carry = Callable[[Command, str], Awaitable[object]]

_ALL = ""  # in place of an id, which is never empty
_ROWS_PER_PLACE = 4  # looked at for each command that may begin: several may wait for the same entry


class Host(Protocol):
    """Who carries the verbs out: the open engine, which knows of scopes and groups too. All raise EngineError."""

    async def offline(self, request: DownloadRequest) -> object: ...
    async def pause(self, entry_id: str) -> object: ...
    async def resume(self, entry_id: str) -> object: ...
    async def cancel(self, entry_id: str) -> object: ...
    async def retry(self, entry_id: str) -> object: ...
    async def remove(self, entry_id: str, *, keep_file: bool = False) -> object: ...
    async def prioritise(self, entry_id: str, priority: int, *, preempt: bool = False) -> object: ...


def verbs_of(host: Host, manager: Manager) -> dict[Verb, Carry]:
    """How each verb is carried out. To remove all is to remove what groups hold, too."""

    async def remove(command: Command, entry_id: str) -> None:
        await (manager if command.every else host).remove(entry_id, keep_file=command.keep_file)

    return {
        Verb.GET: lambda command, _id: host.offline(_request_of(command)),
        Verb.PAUSE: lambda _command, entry_id: host.pause(entry_id),
        Verb.RESUME: lambda _command, entry_id: host.resume(entry_id),
        Verb.CANCEL: lambda _command, entry_id: host.cancel(entry_id),
        Verb.RETRY: lambda _command, entry_id: host.retry(entry_id),
        Verb.REMOVE: remove,
        Verb.PRIORITISE: lambda command, entry_id: host.prioritise(
            entry_id, _priority_of(command), preempt=command.preempt
        ),
    }


def command_of(request: DownloadRequest, entry_id: str, *, token: str, now: float) -> Command:
    """The command that asks for ``request``. Raises InvalidRequest when that holds credentials: they never come into
    the inbox."""
    secret = split_fields(request)[1]
    if secret:
        names = ", ".join(name for name, _ in secret)
        raise InvalidRequest(
            f"{names}: secrets cannot be handed to the engine that runs on this root in another process, because the "
            "store never keeps them; ask in that process, or when it has ended"
        )
    return Command(verb=Verb.GET, token=token, id=entry_id, request=request, created_at=now)


def _request_of(command: Command) -> DownloadRequest:
    if command.request is None:
        raise InvalidRequest("the command says nothing of what to get")
    return msgspec.structs.replace(command.request, id=command.id)


def _priority_of(command: Command) -> int:
    if command.priority is None:
        raise InvalidRequest("the command says no priority")
    return command.priority


def _uptime_s() -> float:
    """Seconds since the machine started: never set, never stopped by its sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Inbox:
    """``await nursery.start(inbox.run)`` before anything else is taken up: what was asked while no engine ran comes
    first."""

    def __init__(
        self, services: Services, root: str, verbs: Mapping[Verb, Carry], uptime_s: Callable[[], float] = _uptime_s
    ) -> None:
        self._services = services
        self._root = root
        self._verbs = verbs
        self._uptime_s = uptime_s
        self._inbox = services.store.inbox
        self._busy: dict[int, str] = {}
        self._put_off: set[int] = set()
        self._wake = trio.Event()

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry out what is asked, until cancelled; started when what waited is done."""
        services = self._services
        bell: Bell | None = None
        try:
            bell = Bell(self._root, services.files)
        except OSError as error:
            log.warning("no doorbell in %s (%s): commands of other processes are looked for", self._root, error)
        try:
            async with trio.open_nursery() as nursery:
                if bell is not None:
                    nursery.start_soon(self._listen, bell)
                await self._catch_up(nursery)
                task_status.started()
                while True:
                    await self._begin_more(nursery)
                    with trio.move_on_after(services.config.inbox_look_interval_s) as look:
                        await self._woken()
                    if look.cancelled_caught:
                        self._put_off.clear()
        finally:
            if bell is not None:
                bell.take_down()

    async def _catch_up(self, nursery: trio.Nursery) -> None:
        while await self._begin_more(nursery) or self._busy:
            if self._busy:
                await self._woken()

    async def _listen(self, bell: Bell) -> None:
        while True:
            await trio.lowlevel.wait_readable(bell.socket)
            bell.clear()
            self._wake.set()

    async def _woken(self) -> None:
        await self._wake.wait()
        self._wake = trio.Event()

    async def _begin_more(self, nursery: trio.Nursery) -> bool:
        """Begin what may be begun now; False when that is nothing."""
        try:
            rows = list(self._eligible())
            known = [row.number for row in rows if row.command is not None and row.command.understood]
            begun = await self._services.write(self._inbox.begin, known) if known else []
        except (StoreError, StorageError) as error:
            log.warning("the inbox cannot be read now: %s", error)
            return False
        for row in rows:
            if row.command is None or not row.command.understood:
                self._busy[row.number] = _id_of(row)
                nursery.start_soon(self._refuse, row)
        for one in begun:
            self._busy[one.command.number] = _ALL if one.command.every else one.command.id
            nursery.start_soon(self._carry_out, one)
        return bool(rows)

    def _eligible(self) -> Iterator[Row]:
        """Commands that nothing before them has to end for. A withdrawn one may still be among them."""
        most = self._services.config.inbox_at_once
        taken = set(self._busy.values())
        room = most - len(self._busy)
        for row in self._inbox.waiting(0, most * _ROWS_PER_PLACE):
            if row.number in self._busy:
                continue
            if _ALL in taken or room == 0:
                return
            entry_id = _ALL if row.command is not None and row.command.every else _id_of(row)
            if entry_id == _ALL and taken:
                return
            if entry_id not in taken and row.number not in self._put_off:
                room -= 1
                yield row
            taken.add(entry_id)

    async def _refuse(self, row: Row) -> None:
        """Of what does not decode, or a newer program asked."""
        if row.command is None:
            error = ErrorRecord.of(BadRecord("the command is damaged"), self._services.now())
            result = CommandResult(number=row.number, token="", outcome=Outcome.REFUSED, error=error)
        else:
            result = CommandResult(number=row.number, token=row.command.token, outcome=Outcome.UNSUPPORTED)
        await self._finish(result)

    async def _carry_out(self, begun: Begun) -> None:
        command = begun.command
        try:
            if command.every:
                result = await self._for_all(command)
            else:
                result = await self._for_one(begun)
        except (EngineClosed, StoreError, StorageError) as error:  # it waits for the next look, or the next start
            log.warning("command %d cannot be carried out now: %s", command.number, error)
            del self._busy[command.number]
            self._put_off.add(command.number)
            self._wake.set()
            return
        await self._finish(result)

    async def _finish(self, result: CommandResult) -> None:
        """Write the result; what cannot be written now is tried again at the next look."""
        services = self._services
        stamped = msgspec.structs.replace(result, boot_id=services.boot_id, uptime_s=self._uptime_s())
        try:
            with trio.CancelScope(shield=True):
                await services.write(self._inbox.finish, stamped, services.config.inbox_result_kept_s)
        except (StoreError, StorageError) as error:
            log.warning("the result of command %d cannot be recorded now: %s", result.number, error)
            self._put_off.add(result.number)
        del self._busy[result.number]
        self._wake.set()

    async def _for_one(self, begun: Begun) -> CommandResult:
        command = begun.command
        error: EngineError | None = None
        if begun.again and is_gone(command, begun.entry) and not took_place(command, begun.entry):
            error = UnknownEntry(f"{command.id} was removed before the command was carried out")
        elif not (begun.again and took_place(command, begun.entry)):
            error = await self._change(command, command.id)
        return self._result(command, 0 if error else 1, error)

    async def _for_all(self, command: Command) -> CommandResult:
        """Change every entry that it is about. One that does not allow it any more, or is gone, is left out."""
        ids = await self._services.work(self._inbox.targets, command)
        outcomes, _ = await for_each(
            ids, lambda entry_id: self._change(command, entry_id), self._services.config.inbox_at_once
        )
        errors = [error for error in outcomes if error and not isinstance(error, IllegalTransition | UnknownEntry)]
        errors.sort(key=lambda error: not isinstance(error, EngineClosed))
        return self._result(command, outcomes.count(None), errors[0] if errors else None)

    async def _change(self, command: Command, entry_id: str) -> EngineError | None:
        try:
            if not entry_id:
                raise InvalidRequest("the command says no entry")
            await self._verbs[command.verb](command, entry_id)
        except EngineError as error:
            return error
        except Exception as bug:  # it must end this command, not the engine, and not again at every start
            log.exception("%s of %s ended with an error that nobody expected", command.verb.value, entry_id)
            cause = sole_error(bug)
            return InternalError(f"{type(cause).__name__}: {cause}")
        return None

    def _result(self, command: Command, count: int, error: EngineError | None) -> CommandResult:
        if isinstance(error, EngineClosed):
            raise error
        return CommandResult(
            number=command.number,
            token=command.token,
            outcome=Outcome.DONE if error is None else Outcome.REFUSED,
            state="" if command.every else self._state_of(command.id),
            count=count,
            error=None if error is None else ErrorRecord.of(error, self._services.now()),
        )

    def _state_of(self, entry_id: str) -> str:
        try:
            entry = self._services.store.get(entry_id)
        except StoreError:
            return ""  # its record is damaged: the error tells of it
        return "" if entry is None else entry.state.value


def _id_of(row: Row) -> str:
    """What a command waits its turn for; of a damaged one nobody knows."""
    return f"\0{row.number}" if row.command is None else row.command.id or f"\0{row.number}"
