"""From the options about trust to a :class:`Trust`."""

from __future__ import annotations

import argparse
from functools import partial

from engine import AddressPolicy, ClientCertificate, Trust
from engine.errors import InvalidRequest

DEFAULT_NETRC = "~/.netrc"


def trust_of(arguments: argparse.Namespace) -> Trust:
    """What the options amount to. Raises InvalidRequest."""
    netrc = arguments.netrc_file or (DEFAULT_NETRC if arguments.netrc else None)
    return Trust(
        cafile=arguments.cacert,
        addresses=AddressPolicy(allow=tuple(arguments.allow_address), named=not arguments.public_only),
        proxy=arguments.proxy,
        proxy_auth=None if arguments.proxy_auth is None else _login(arguments.proxy_auth),
        no_proxy=arguments.no_proxy or (),
        environment=arguments.proxy_from_env,
        certificates=_certificates(arguments),
        insecure=tuple(arguments.insecure),
        netrc=netrc,
    )


def _login(text: str) -> tuple[str, str]:
    """User and password; what is wrong with them is told without them."""
    if text.startswith("@"):
        text = _first_line(text[1:])
    user, colon, password = text.partition(":")
    if not colon:
        raise InvalidRequest("--proxy-auth is given as USER:PASSWORD, or as @FILE with that in its first line")
    return user, password


def _certificates(arguments: argparse.Namespace) -> tuple[ClientCertificate, ...]:
    if arguments.client_cert is None:
        if arguments.client_key or arguments.client_key_password_file or arguments.client_cert_origin:
            raise InvalidRequest("the options of a client certificate need --client-cert")
        return ()
    if not arguments.client_cert_origin:
        raise InvalidRequest("--client-cert needs --client-cert-origin: who may see it")
    file = arguments.client_key_password_file
    return (
        ClientCertificate(
            certfile=arguments.client_cert,
            keyfile=arguments.client_key,
            origins=tuple(arguments.client_cert_origin),
            password=None if file is None else partial(_first_line, file),
        ),
    )


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.readline().rstrip("\r\n")
    except (OSError, UnicodeError) as error:
        raise InvalidRequest(f"{path} cannot be read: {error}") from None
