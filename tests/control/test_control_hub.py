"""Events to fast and slow consumers: states in order, none dropped; of progress the newest (fault catalogue H7)."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from engine.control import hub as hub_module
from engine.control.hub import EventHub
from engine.errors import EventsLost
from engine.model.events import EngineEvent, Progress, StateChanged
from engine.model.states import State


def progress(done: int, entry_id: str = "a") -> Progress:
    return Progress(id=entry_id, epoch=1, attempt=1, bytes_done=done, bytes_received=done, bytes_total=100)


def changed(state: State, entry_id: str = "a") -> StateChanged:
    return StateChanged(id=entry_id, epoch=1, attempt=1, previous=None, state=state)


async def rest(subscription: hub_module.Subscription) -> list[EngineEvent]:
    return [event async for event in subscription]


async def test_only_the_newest_progress_is_kept() -> None:
    hub = EventHub()
    slow = hub.subscribe()
    for done in range(50_000):
        hub.emit(progress(done))
        hub.emit(progress(done, "b"))
    hub.close()
    assert await rest(slow) == [progress(49_999), progress(49_999, "b")]


async def test_states_keep_their_order_around_progress() -> None:
    hub = EventHub()
    subscription = hub.subscribe()
    told: list[EngineEvent] = [
        progress(1),
        changed(State.IN_PROGRESS),
        progress(2),
        progress(3),
        changed(State.COMPLETED),
    ]
    for event in (changed(State.PENDING), *told):
        hub.emit(event)
    hub.close()
    assert await rest(subscription) == [changed(State.PENDING), changed(State.IN_PROGRESS), changed(State.COMPLETED)]


async def test_progress_never_comes_before_an_older_change_of_state() -> None:
    hub = EventHub()
    subscription = hub.subscribe()
    told: list[EngineEvent] = [progress(1), changed(State.PENDING), changed(State.IN_PROGRESS), progress(2)]
    for event in told:
        hub.emit(event)
    hub.close()
    assert await rest(subscription) == told[1:]


async def test_a_subscription_to_one_entry_sees_that_one() -> None:
    hub = EventHub()
    one, every = hub.subscribe("a"), hub.subscribe()
    hub.emit(changed(State.PENDING, "b"))
    hub.emit(progress(1, "b"))
    hub.emit(changed(State.PENDING, "a"))
    hub.close()
    assert await rest(one) == [changed(State.PENDING, "a")]
    assert len(await rest(every)) == 3


async def test_a_consumer_that_does_not_read_is_told_and_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its mailbox is bounded; nobody else notices."""
    monkeypatch.setattr(hub_module, "MAILBOX_EVENTS_MAX", 100)
    hub = EventHub()
    stuck, fine = hub.subscribe(), hub.subscribe()
    seen = []
    for number in range(150):
        hub.emit(changed(State.PENDING, str(number)))
        seen.append((await anext(fine)).id)
    with pytest.raises(EventsLost):
        await anext(stuck)
    assert seen == [str(number) for number in range(150)]
    hub.emit(changed(State.PENDING, "later"))
    assert (await anext(fine)).id == "later"


async def test_a_reader_is_woken_and_ended() -> None:
    hub = EventHub()
    got: list[EngineEvent] = []

    async def read() -> None:
        async for event in hub.subscribe():
            got.append(event)  # noqa: PERF401  # what came so far is looked at meanwhile

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read)
        await trio.testing.wait_all_tasks_blocked()
        hub.emit(progress(1))
        await trio.testing.wait_all_tasks_blocked()
        assert got == [progress(1)]
        hub.emit(progress(2))
        await trio.testing.wait_all_tasks_blocked()
        hub.close()
    assert got == [progress(1), progress(2)]


async def test_leaving_ends_the_flow() -> None:
    hub = EventHub()
    with hub.subscribe() as subscription:
        hub.emit(progress(1))
    hub.emit(progress(2))
    assert await rest(subscription) == [progress(1)]
    subscription.close()


async def test_a_subscription_after_the_end_is_empty() -> None:
    hub = EventHub()
    hub.close()
    assert await rest(hub.subscribe()) == []


async def test_emitting_never_waits_and_reading_lets_others_run() -> None:
    """A reader of a full mailbox is a checkpoint at each event, and can be cancelled."""
    hub = EventHub()
    subscription = hub.subscribe()
    for number in range(10):
        hub.emit(changed(State.PENDING, str(number)))
    with trio.CancelScope() as scope:
        scope.cancel()
        await anext(subscription)
    assert scope.cancelled_caught
    assert (await anext(subscription)).id == "0"
