"""Where a redirect may lead, and what may come along (fault catalogue section 3, redirect and credential policy)."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from engine.errors import AddressRefused, BadRedirect
from engine.net.head import Head
from engine.net.url import FOREIGN_PORTS, Origin, Url, resolve_location

FOLLOWED = frozenset({301, 302, 303, 307, 308})
PERMANENT = frozenset({301, 308})


class Trail:
    """The way from the URL asked for to the one that answers.

    ``fields`` are the caller's, sent as long as every hop is of an origin in ``home``. ``named``: the caller himself
    put ``start`` into a request; that holds until a hop leaves its origin.
    """

    def __init__(
        self,
        start: Url,
        fields: Sequence[tuple[str, str]],
        hops_max: int,
        *,
        home: Collection[Origin] | None = None,
        named: bool = True,
    ) -> None:
        self.url = start
        self._home = (start.origin,) if home is None else home
        self.fields = tuple(fields) if home is None or start.origin in home else ()
        self.named = named
        self.permanent_url: Url | None = None
        self._permanent = True
        self._seen = {start}
        self._hops_max = hops_max

    @property
    def redirected(self) -> bool:
        """Whether any redirect was followed."""
        return len(self._seen) > 1

    def follow(self, head: Head) -> None:
        """Go where ``head`` points. The caller's fields are dropped for good when a hop leaves their origins: who could
        send us back there would choose what they are used for (S33). Raises BadRedirect: no or several Locations, a
        refused one, a loop, too many hops; AddressRefused for a port of another protocol."""
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
            self.named = False
            if target.origin not in self._home:
                self.fields = ()
            if target.port in FOREIGN_PORTS:
                raise AddressRefused(
                    f"{self.url.redacted()} redirects to port {target.port}, which belongs to another protocol",
                    status=head.status,
                    by_server=True,
                )
        self._permanent = self._permanent and head.status in PERMANENT
        if self._permanent:
            self.permanent_url = target
        self._seen.add(target)
        self.url = target
