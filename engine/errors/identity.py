"""What came is wrong, rather than how it came: other bytes, another kind of thing, a URL that is spent."""

from __future__ import annotations

from engine.errors.base import Fault
from engine.errors.transfer import Changed, IntegrityError, NetworkError, ServerError, TransferError


class PerhapsChanged(Changed):
    """Only the source's ETag changed: its bytes may be the same. Settled by comparing some of them; ``etag`` is the new
    one."""

    def __init__(self, message: str, *, etag: str, status: int | None = None) -> None:
        super().__init__(message, status=status)
        self.etag = etag


class Incomparable(Changed):
    """Nothing tells whether the source still has the bytes that were fetched, so they are fetched anew."""


class ChangeRefused(ServerError):
    """The source has other bytes now, and the request said ``on_change="fail"``; what was fetched is kept."""

    code = "change_refused"
    advice = "Ask again with on_change='restart' to take the new version; the bytes so far are kept until then."


class CaptivePortal(NetworkError):
    """The network's own page (a login, a notice) came in place of the media; nothing of it was written."""

    code = "captive_portal"
    advice = "Log in to the network, or connect to another one; it goes on by itself then. The bytes so far are kept."


class WrongType(ServerError):
    """A page, or another type than was asked for, came in place of the media; nothing of it was written."""

    code = "wrong_type"
    advice = (
        "Open the URL in a browser: it may ask for a login, or say that the file is gone. If that type is wanted, name"
        " it in the request's media_types."
    )


class NeedsUrl(ServerError):
    """The URL does not work any more (a signed one has expired, or access was withdrawn); what was fetched is kept."""

    code = "needs_url"
    advice = "Ask again under the same id with a URL that works; the download goes on from the bytes so far."


class RefreshFailed(TransferError):
    """The host's own resolver gave no usable URL: it raised, took too long, or returned something that is none."""

    code = "refresh_failed"
    fault = Fault.HOST
    retryable = True
    advice = "Look at the resolver that the host gave to the engine; the bytes so far are kept."


class CorruptBody(IntegrityError):
    """A body is not what the digest in its own head says: it was damaged on its way. None of it is kept."""

    code = "corrupt_body"
    retryable = True
    advice = "The line, or a box on the way, damages data; try another network or another source."


class SourcesDiffer(IntegrityError):
    """Two sources have different bytes, and nothing tells which of them are right."""

    advice = "Add what tells: the digest that the file must have, hashes of its pieces (a Metalink), or a third source."
