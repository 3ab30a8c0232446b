"""Whether the hosts that are tried fail because the network is gone, as far as their failures can tell."""

from __future__ import annotations

from engine.errors import EngineError, Fault
from engine.model.retry import Loss, policy_of

# One host may be down alone; two that have nothing to do with each other seldom are.
HOSTS_MIN = 2


class Reach:
    """Hosts that failed in a way that suggests a loss of the network, since one answered last. Pure."""

    def __init__(self) -> None:
        self._failing: set[str] = set()

    @property
    def all_fail(self) -> bool:
        """Whether several hosts failed so, and none has answered since."""
        return len(self._failing) >= HOSTS_MIN

    def note(self, host: str, error: EngineError | None, bytes_fetched: int) -> None:
        """An attempt at ``host`` ended; without ``error`` and bytes it tells nothing (it was cut off)."""
        if bytes_fetched or (error is not None and _is_answer(error)):
            self._failing.clear()
        elif error is not None and policy_of(error).loss is not Loss.NONE and len(self._failing) < HOSTS_MIN:
            self._failing.add(host)


def _is_answer(error: EngineError) -> bool:
    """What only a network that works can bring: a status, a refusal, a name that is known not to exist. Of a host that
    rests nothing was asked."""
    policy = policy_of(error)
    return error.fault in {Fault.SERVER, Fault.NETWORK} and policy.loss is Loss.NONE and not policy.untried
