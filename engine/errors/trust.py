"""What is refused for the sake of trust, and what a proxy on the way can do wrong."""

from __future__ import annotations

from engine.errors.base import Fault
from engine.errors.transfer import RETRYABLE_STATUSES, NetworkError, TransferError


class AddressRefused(TransferError):
    """The host is, or resolves to, an address that may not be connected to (private, loopback, link-local, metadata
    …), or its port belongs to another protocol. Nothing was sent. ``by_server``: a server sent us there."""

    code = "address_refused"
    fault = Fault.CALLER
    advice = (
        "If this place is meant to be reached, allow its network: --allow-address NETWORK, or AddressPolicy(allow=…)."
    )

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        retry_after_s: float | None = None,
        by_server: bool = False,
    ) -> None:
        super().__init__(message, status=status, retry_after_s=retry_after_s)
        if by_server:
            self.fault = Fault.SERVER  # type: ignore[misc]  # the class value is only the default


class ProxyError(NetworkError):
    """The proxy cannot be reached, makes no tunnel, or speaks in the place of the host behind it. ``status`` is the
    proxy's; one that will be the same next time makes it final."""

    code = "proxy_error"
    advice = "Check the proxy's address, that it runs, and that it may connect to this host."

    def __init__(self, message: str, *, status: int | None = None, retry_after_s: float | None = None) -> None:
        super().__init__(message, status=status, retry_after_s=retry_after_s)
        if status is not None and status not in RETRYABLE_STATUSES:
            self.retryable = False  # type: ignore[misc]  # per status: the class value is only the default


class ProxyAuth(ProxyError):
    """The proxy wants credentials, or others than were given."""

    code = "proxy_auth"
    fault = Fault.CALLER
    retryable = False
    advice = "Give the proxy's user and password: --proxy-auth USER:PASSWORD, or Trust(proxy_auth=(…))."
