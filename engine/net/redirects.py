"""Where a redirect may lead, and what may come along (fault catalogue section 3, redirect and credential policy)."""

from __future__ import annotations

from collections.abc import Sequence

from engine.errors import BadRedirect
from engine.net.head import Head
from engine.net.url import Url, resolve_location

FOLLOWED = frozenset({301, 302, 303, 307, 308})
PERMANENT = frozenset({301, 308})


class Trail:
    """The way from the URL asked for to the one that answers."""

    def __init__(self, start: Url, fields: Sequence[tuple[str, str]], hops_max: int) -> None:
        self.url = start
        self.fields = tuple(fields)
        self.permanent_url: Url | None = None
        self._permanent = True
        self._seen = {start}
        self._hops_max = hops_max

    @property
    def redirected(self) -> bool:
        """Whether any redirect was followed."""
        return len(self._seen) > 1

    def follow(self, head: Head) -> None:
        """Go where ``head`` points. The caller's fields are dropped for good when the origin changes (S33). Raises
        BadRedirect: no or several Locations, a refused one, a loop, too many hops."""
        locations = head.get_all("location")
        if len(locations) != 1:
            raise BadRedirect(f"{self.url.redacted()} answers {head.status} without one Location", status=head.status)
        target = resolve_location(self.url, locations[0])
        if target in self._seen:
            raise BadRedirect(f"{self.url.redacted()} redirects in a loop", status=head.status)
        if len(self._seen) > self._hops_max:
            raise BadRedirect(
                f"more than {self._hops_max} redirects, the last to {target.redacted()}", status=head.status
            )
        if target.origin != self.url.origin:
            self.fields = ()
        self._permanent = self._permanent and head.status in PERMANENT
        if self._permanent:
            self.permanent_url = target
        self._seen.add(target)
        self.url = target
