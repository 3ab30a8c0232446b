"""Lines that an engine may be told of, and waiting for what it makes of them."""

from __future__ import annotations

import trio

from engine import Line, LinePolicy, Reason, State, StateChanged, Subscription
from tests.support.library import small

FREE = Line(connected=True, metered=False)
METERED = Line(connected=True, metered=True)
GONE = Line(connected=False)
MINDS = LinePolicy(allow_metered=False)
QUICK = small(network_settle_s=0.05)


async def until(events: Subscription, state: State, reason: Reason = Reason.NONE, entry_id: str = "film") -> None:
    """Wait until the entry is told to be so; its end instead is a failure."""
    with trio.fail_after(30):
        async for event in events:
            if isinstance(event, StateChanged) and event.id == entry_id:
                if (event.state, event.reason) == (state, reason):
                    return
                assert event.state not in {State.COMPLETED, State.FAILED}
