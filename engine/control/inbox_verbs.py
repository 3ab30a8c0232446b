"""How the commands of other processes are carried out: for one entry by the open engine's face, for all where many can
be moved at once."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Protocol

import msgspec

from engine.control.maintenance import FINDINGS_MAX, MaintenanceReport
from engine.control.manager import Manager
from engine.control.verify import Validation
from engine.errors import EngineError, InvalidRequest
from engine.model.commands import Command, Verb
from engine.model.records import DownloadRequest
from engine.model.states import Event

# Does what a command says to one entry; what it returns is told to the sender if it is a record. Raises EngineError.
Carry = Callable[[Command, str], Awaitable[object]]
# Does what a command for all says to the entries up to a sequence; how many it changed, and what the others refused.
CarryAll = Callable[[Command, int], Awaitable[tuple[int, Sequence[EngineError]]]]


class Host(Protocol):
    """Who carries the verbs out: the open engine, which knows of scopes and groups too. All raise EngineError."""

    async def offline(self, request: DownloadRequest) -> object: ...
    async def pause(self, entry_id: str) -> object: ...
    async def resume(self, entry_id: str) -> object: ...
    async def cancel(self, entry_id: str) -> object: ...
    async def retry(self, entry_id: str) -> object: ...
    async def remove(self, entry_id: str, *, keep_file: bool = False) -> object: ...
    async def prioritise(self, entry_id: str, priority: int, *, preempt: bool = False) -> object: ...
    async def gc(self, *, dry_run: bool = False) -> MaintenanceReport: ...
    async def repair(self, entry_id: str) -> Validation: ...
    async def validate_downloads(self, entry_ids: Iterable[str] | None = None) -> tuple[Validation, ...]: ...


def verbs_of(host: Host, manager: Manager) -> dict[Verb, Carry]:
    """How each verb is carried out. To remove all is to remove what groups hold, too."""

    async def remove(command: Command, entry_id: str) -> None:
        await (manager if command.every else host).remove(entry_id, keep_file=command.keep_file)

    async def gc(command: Command, _id: str) -> MaintenanceReport:
        report = await host.gc(dry_run=command.dry_run)
        left_out = max(0, len(report.findings) - FINDINGS_MAX)
        return msgspec.structs.replace(report, findings=report.findings[:FINDINGS_MAX], findings_left_out=left_out)

    async def verify(command: Command, entry_id: str) -> Validation:
        return await host.repair(entry_id) if command.repair else (await host.validate_downloads([entry_id]))[0]

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
        Verb.VERIFY: verify,
        Verb.GC: gc,
    }


def verbs_for_all_of(manager: Manager) -> dict[Verb, CarryAll]:
    """How a verb for all entries is carried out where many can be moved at once."""

    def carry_all(event: Event) -> CarryAll:
        async def carry(command: Command, newest: int) -> tuple[int, Sequence[EngineError]]:
            changed, errors = await manager.change_all(event, command.scope, newest)
            return len(changed), errors

        return carry

    return {
        Verb.PAUSE: carry_all(Event.PAUSE),
        Verb.RESUME: carry_all(Event.RESUME),
        Verb.CANCEL: carry_all(Event.CANCEL),
        Verb.RETRY: carry_all(Event.RETRY),
    }


def _request_of(command: Command) -> DownloadRequest:
    if command.request is None:
        raise InvalidRequest("the command says nothing of what to get")
    return msgspec.structs.replace(command.request, id=command.id)


def _priority_of(command: Command) -> int:
    if command.priority is None:
        raise InvalidRequest("the command says no priority")
    return command.priority
