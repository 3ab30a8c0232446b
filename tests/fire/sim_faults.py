"""Which faults a simulated day has, and how often: each kind is on or off for a seed (swarm), at a rate of its own.

A day with every fault at once only ever shows the first of them; what is switched off lets the others come far.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass, field

# The highest share of occasions on which a fault strikes, by kind; the seed draws a rate below it.
HIGHEST: dict[str, float] = {
    # network
    "refused": 0.2,
    "dns": 0.1,
    "resolver_down": 0.2,
    "black_hole": 0.05,
    "no_route": 0.1,
    "reset": 0.3,
    "cut": 0.3,
    "stall": 0.1,
    "drip": 0.1,
    "slices": 0.6,
    "clog": 0.3,
    "line": 0.5,
    # server
    "http_5xx": 0.2,
    "http_429": 0.1,
    "http_404": 0.05,
    "http_403": 0.05,
    "range_start": 0.1,
    "range_total": 0.1,
    "no_content_range": 0.1,
    "range_ignored": 0.2,
    "bogus_416": 0.1,
    "bad_head": 0.1,
    "surplus": 0.1,
    "endless_interims": 0.03,
    "encoded": 0.05,
    "multipart": 0.05,
    "no_validator": 0.1,
    "chunked": 0.5,
    "to_the_end": 0.05,
    "redirect": 0.4,
    "redirect_loop": 0.05,
    "changed": 0.3,
    "corrupt": 0.1,
    # disk
    "write_eio": 0.03,
    "write_enospc": 0.03,
    "write_short": 0.3,
    "sync_eio": 0.1,
    "read_eio": 0.05,
    "allocate_enospc": 0.1,
    "open_emfile": 0.05,
    "create_eio": 0.05,
    "rename_eio": 0.1,
    "unlink_eio": 0.1,
    "folder_eio": 0.05,
    "folder_sync_eio": 0.1,
    "slow_disk": 0.3,
    "slow_seal": 0.5,
    # store
    "commit_fails": 0.05,
    "commit_lands_and_fails": 0.05,
    # the user and the process
    "impatient": 0.2,
    "stopped": 0.01,
    "crash": 1.0,
    "power": 0.5,
}
# These are on in half of all days, at least.
OFTEN: dict[str, float] = {"crash": 1.0, "power": 0.6}


@dataclass
class Faults:
    """``hit(kind)`` says whether it strikes now; never while ``calm``."""

    rng: random.Random
    rates: dict[str, float]
    calm: bool = False
    struck: Counter[str] = field(default_factory=Counter)

    @classmethod
    def drawn(cls, rng: random.Random) -> Faults:
        """The kinds and rates of one seed."""
        share = rng.choice((0.1, 0.3, 0.5, 0.8))
        rates = {kind: rng.random() * most for kind, most in HIGHEST.items() if rng.random() < share}
        rates |= {kind: rate for kind, rate in OFTEN.items() if rng.random() < 0.5}
        return cls(rng, rates)

    def hit(self, kind: str) -> bool:
        """Whether the fault strikes on this occasion."""
        rate = self.rates.get(kind, 0.0)
        if rate == 0.0 or self.calm or self.rng.random() >= rate:
            return False
        self.struck[kind] += 1
        return True
