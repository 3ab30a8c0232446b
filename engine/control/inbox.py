"""The engine's side of the inbox: takes the commands that other processes left, carries them out, tells how they ended.

In the order of asking for each entry, many entries at once; a command for all waits for those before it, and those
behind it wait for it. The engine learns of commands by its doorbell. It also looks once a second: a bell may not be had
(a file system without sockets) or be gone (somebody cleaned the folder up), and then "within a second" still holds; a
look reads one key of a mapped file, which is cheaper than to find out whether the bell still hangs.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import trio

from engine.control.each import for_each
from engine.control.inbox_verbs import Carry, CarryAll
from engine.control.maintenance import MaintenanceReport
from engine.control.requests import split_fields
from engine.control.verify import Validation
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
from engine.model.commands import ABOUT_NONE, Command, CommandResult, Outcome, Verb, is_gone, took_place
from engine.model.records import DownloadRequest, ErrorRecord
from engine.store.bell import Bell
from engine.store.inbox import Begun, Row
from engine.transfer.services import Services

log = logging.getLogger("engine")

_Result = TypeVar("_Result")

_ALL = ""  # in place of an id, which is never empty
_ROWS_PER_PLACE = 4  # looked at for each command that may begin: several may wait for the same entry
_ALONE = "\0"  # begins what stands for a command that is about no entry
_REPORTED = (MaintenanceReport, Validation)


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


def _uptime_s() -> float:
    """Seconds since the machine started: never set, never stopped by its sleep."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Inbox:
    """``await nursery.start(inbox.run)`` before anything else is taken up: what was asked while no engine ran comes
    first."""

    def __init__(
        self,
        services: Services,
        root: str,
        verbs: Mapping[Verb, Carry],
        verbs_for_all: Mapping[Verb, CarryAll],
        uptime_s: Callable[[], float] = _uptime_s,
    ) -> None:
        self._services = services
        self._root = root
        self._verbs = verbs
        self._verbs_for_all = verbs_for_all
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
                self._busy[row.number] = _place_of(row.number, row.command)
                nursery.start_soon(self._refuse, row)
        for one in begun:
            self._busy[one.command.number] = _place_of(one.command.number, one.command)
            nursery.start_soon(self._carry_out, one)
        return bool(rows)

    def _eligible(self) -> Iterator[Row]:
        """Commands that nothing before them has to end for. A withdrawn one may still be among them."""
        most = self._services.config.inbox_at_once
        taken = {place for place in self._busy.values() if not place.startswith(_ALONE)}
        room = most - len(self._busy)
        for row in self._inbox.waiting(0, most * _ROWS_PER_PLACE):
            if row.number in self._busy:
                continue
            if _ALL in taken or room == 0:
                return
            place = _place_of(row.number, row.command)
            if place == _ALL and taken:
                return
            if place not in taken and row.number not in self._put_off:
                room -= 1
                yield row
            if not place.startswith(_ALONE):
                taken.add(place)

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
        if begun.again and is_gone(command, begun.entry) and not took_place(command, begun.entry):
            error = UnknownEntry(f"{command.id} was removed before the command was carried out")
            return self._result(command, 0, error)
        if begun.again and took_place(command, begun.entry):
            return self._result(command, 1)
        try:
            found = await self._change(command, command.id)
        except EngineError as error:
            return self._result(command, 0, error)
        return self._result(command, 1, report=msgspec.json.encode(found) if isinstance(found, _REPORTED) else b"")

    async def _for_all(self, command: Command) -> CommandResult:
        """Change every entry that it is about. One that does not allow it any more, or is gone, is left out."""
        try:
            count, refusals = await self._guarded(command, self._change_all(command))
        except (StoreError, StorageError):
            raise
        except EngineError as error:
            return self._result(command, 0, error)
        errors = [error for error in refusals if not isinstance(error, IllegalTransition | UnknownEntry)]
        errors.sort(key=lambda error: not isinstance(error, EngineClosed))
        return self._result(command, count, errors[0] if errors else None)

    async def _change_all(self, command: Command) -> tuple[int, Sequence[EngineError]]:
        newest = command.mark.sequence if command.mark is not None else 0
        if (carry := self._verbs_for_all.get(command.verb)) is not None:
            return await carry(command, newest)
        services = self._services
        ids = await services.work(self._inbox.targets, command)
        done, errors = await for_each(
            ids, lambda entry_id: self._change(command, entry_id), services.config.inbox_at_once
        )
        return len(done), errors

    async def _change(self, command: Command, entry_id: str) -> object:
        if not entry_id and command.verb not in ABOUT_NONE:
            raise InvalidRequest("the command says no entry")
        return await self._guarded(command, self._verbs[command.verb](command, entry_id))

    async def _guarded(self, command: Command, work: Awaitable[_Result]) -> _Result:
        """What ``work`` returns. Raises EngineError: an error that nobody expected must end this command, not the
        engine, and not again at every start."""
        try:
            return await work
        except EngineError:
            raise
        except Exception as bug:
            log.exception("%s ended with an error that nobody expected", command.verb.value)
            cause = sole_error(bug)
            raise InternalError(f"{type(cause).__name__}: {cause}") from bug

    def _result(
        self, command: Command, count: int, error: EngineError | None = None, report: bytes = b""
    ) -> CommandResult:
        if isinstance(error, EngineClosed):
            raise error
        return CommandResult(
            number=command.number,
            token=command.token,
            outcome=Outcome.DONE if error is None else Outcome.REFUSED,
            state="" if command.every or not command.id else self._state_of(command.id),
            count=count,
            error=None if error is None else ErrorRecord.of(error, self._services.now()),
            report=report,
        )

    def _state_of(self, entry_id: str) -> str:
        try:
            entry = self._services.store.get(entry_id)
        except StoreError:
            return ""  # its record is damaged: the error tells of it
        return "" if entry is None else entry.state.value


def _place_of(number: int, command: Command | None) -> str:
    """What a command waits its turn for: its entry, or all. Of a damaged one nobody knows, and a clean-up waits for
    none."""
    if command is not None and command.every:
        return _ALL
    return command.id if command is not None and command.id else f"{_ALONE}{number}"
