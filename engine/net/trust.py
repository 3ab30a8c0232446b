"""Whom the engine trusts, and with what: authorities, addresses, proxies, its own certificates, whose word counts.

One frozen :class:`Trust` goes into :func:`engine.open_engine`; everything in it is checked when it is made.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from engine.errors import InvalidRequest
from engine.net.addresses import AddressPolicy
from engine.net.url import Origin, parse_url

Password = Callable[[], str]


def parse_origin(text: str) -> Origin:
    """The origin in ``scheme://host[:port]``. Raises InvalidRequest for anything else, a path or query included."""
    url = parse_url(text)
    if url.target != "/" or "#" in text:
        raise InvalidRequest(f"{url.origin} is an origin, and needs neither path nor query behind it")
    return url.origin


def proxy_origin(text: str) -> Origin:
    """The origin of a proxy given as ``http://host[:port]`` or ``host[:port]``. Raises InvalidRequest."""
    origin = parse_origin(text if "://" in text else f"http://{text}")
    if origin.scheme != "http":
        raise InvalidRequest("a proxy is given as http://host:port; TLS to the proxy itself is not supported")
    return origin


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificate:
    """A certificate of this side's own, shown to ``origins`` (``https://host[:port]``) and to nobody else.

    ``certfile``: PEM, with the chain behind it; ``keyfile``: its private key, when it is not in the same file.
    ``password`` is called when the key is encrypted. Raises InvalidRequest.
    """

    certfile: str
    keyfile: str | None = None
    origins: tuple[str, ...]
    password: Password | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not _https_origins("the origins of a client certificate", self.origins):
            raise InvalidRequest("a client certificate needs the origins that it is for, such as 'https://host'")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trust:
    """Each field departs from the safe default in one way.

    - ``cafile``: trust these certificate authorities (PEM) in place of the system's.
    - ``addresses``: which private, loopback … addresses may be connected to. With a proxy, that resolves names: then
      only address literals can be judged here.
    - ``proxy``: ``http://host[:port]`` that every request goes through, https by CONNECT; ``proxy_auth`` its user and
      password; ``no_proxy``: what is asked directly: host suffixes, addresses, networks, each also with ``:port``, or
      ``*``; as a tuple or separated by commas.
    - ``environment``: take what is not given from ``http_proxy``, ``https_proxy``, ``all_proxy`` and ``no_proxy``.
    - ``certificates``: the client certificates.
    - ``insecure``: origins (``https://host[:port]``) whose certificates are **not verified**.
    - ``netrc``: a netrc file; a machine named in it gets its login over https, when the caller gave no Authorization.
    """

    cafile: str | None = None
    addresses: AddressPolicy = field(default_factory=AddressPolicy)
    proxy: str | None = None
    proxy_auth: tuple[str, str] | None = field(default=None, repr=False)
    no_proxy: str | tuple[str, ...] = ()
    environment: bool = False
    certificates: tuple[ClientCertificate, ...] = ()
    insecure: tuple[str, ...] = ()
    netrc: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.addresses, AddressPolicy):
            raise InvalidRequest("addresses must be an AddressPolicy")
        if not all(isinstance(certificate, ClientCertificate) for certificate in self.certificates):
            raise InvalidRequest("certificates must be ClientCertificate objects")
        _https_origins("insecure origins", self.insecure)
        if self.proxy is not None:
            proxy_origin(self.proxy)

    @property
    def insecure_origins(self) -> frozenset[Origin]:
        """Those whose certificates are not verified."""
        return _https_origins("insecure origins", self.insecure)


def certificate_origins(certificate: ClientCertificate) -> frozenset[Origin]:
    """Who gets to see the certificate."""
    return _https_origins("the origins of a client certificate", certificate.origins)


def _https_origins(what: str, given: object) -> frozenset[Origin]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidRequest(f"{what} must be a tuple of 'https://host[:port]'")
    origins = frozenset(parse_origin(text) for text in given)
    if any(origin.scheme != "https" for origin in origins):
        raise InvalidRequest(f"{what} must begin with https://")
    return origins


DEFAULT_TRUST = Trust()
