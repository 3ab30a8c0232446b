"""A body checked against the digest that its own head states (RFC 9530 Content-Digest)."""

from __future__ import annotations

import hashlib

from engine.errors import CorruptBody
from engine.net.digest_fields import content_digests
from engine.net.head import Head
from engine.threads import in_thread

# Hashing more than this at once would keep the event loop from others.
ON_LOOP_BYTES_MAX = 64 * 1024


class BodyDigest:
    """Hashes a body as it is received, in order. ``place`` names its source in the error."""

    def __init__(self, algorithm: str, expected: str, place: str) -> None:
        self._algorithm = algorithm
        self._expected = expected
        self._place = place
        self._hash = hashlib.new(algorithm, usedforsecurity=False)

    @classmethod
    def of(cls, head: Head, place: str) -> BodyDigest | None:
        """What checks the part of a file that ``head`` brings; None when it states no digest. (That of a whole file is
        the file's own, which is compared when it is complete.)"""
        if head.status != 206:
            return None
        for algorithm, expected in content_digests(head).items():
            return cls(algorithm, expected, place)
        return None

    async def update(self, view: memoryview) -> None:
        """These bytes came next."""
        if len(view) <= ON_LOOP_BYTES_MAX:
            self._hash.update(view)
        else:
            await in_thread(self._hash.update, view)

    def finish(self) -> None:
        """The body has ended. Raises CorruptBody."""
        found = self._hash.hexdigest()
        if found != self._expected:
            raise CorruptBody(
                f"{self._place}: the {self._algorithm} of what came is {found}, its head says {self._expected}"
            )
