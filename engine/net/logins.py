"""Logins from a netrc file, when the caller asked for one (fault catalogue M26)."""

from __future__ import annotations

import os
from collections.abc import Mapping

from engine.errors import InvalidRequest
from engine.net.proxy import basic
from engine.net.url import Origin


class Logins:
    """What a netrc file says of each machine. Its ``default`` is left out: it would go to whoever is asked."""

    def __init__(self, path: str | os.PathLike[str] | None) -> None:
        self._machines = {} if path is None else _read(os.path.expanduser(path))

    def fields_for(self, origin: Origin) -> tuple[tuple[str, str], ...]:
        """The Authorization for the URL that the caller asked for. Nothing over plain http: a netrc file binds a
        password to a host, and says nothing of who else may read it."""
        value = self._machines.get(origin.host) if origin.scheme == "https" else None
        return () if value is None else (("Authorization", value),)

    def __bool__(self) -> bool:
        return bool(self._machines)

    def __repr__(self) -> str:
        return f"<Logins of {len(self._machines)} machines>"


def _read(path: str) -> Mapping[str, str]:
    """The values by host. Raises InvalidRequest, with the place of the mistake but not the line."""
    import netrc  # noqa: PLC0415  # seldom asked for

    try:
        machines = netrc.netrc(path).hosts
    except netrc.NetrcParseError as error:
        raise InvalidRequest(f"the netrc file {path} cannot be understood at line {error.lineno}") from None
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"the netrc file {path} cannot be read: {error}") from None
    return {
        host.lower(): basic((login or "", password or ""))
        for host, (login, _, password) in machines.items()
        if host != "default"
    }
