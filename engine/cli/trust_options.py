"""The options about trust: whom to believe, what may be reached, which proxies and credentials are used."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator

# What is on when it was given at all; of each the destination, and the option to tell of.
_OPTIONS = {
    "cacert": "--cacert",
    "allow_address": "--allow-address",
    "public_only": "--public-only",
    "proxy": "--proxy",
    "proxy_auth": "--proxy-auth",
    "no_proxy": "--no-proxy",
    "proxy_from_env": "--proxy-from-env",
    "client_cert": "--client-cert",
    "client_key": "--client-key",
    "client_key_password_file": "--client-key-password-file",
    "client_cert_origin": "--client-cert-origin",
    "insecure": "--insecure",
    "netrc": "--netrc",
    "netrc_file": "--netrc-file",
}


def add_trust_options(verb: argparse.ArgumentParser, path: Callable[[str], str]) -> None:
    """What every verb that connects to servers has. ``path``: the type of file names."""
    group = verb.add_argument_group("trust")
    add = group.add_argument
    add("--cacert", metavar="FILE", type=path, help="trust these certificate authorities (PEM), not the system's")
    add(
        "--allow-address",
        metavar="NETWORK",
        action="append",
        default=[],
        help="names, redirects and mirrors may lead to these addresses too (like 192.168.0.0/16); again for more."
        " Without it only public ones, and what a URL of your own names as an address or as localhost",
    )
    add("--public-only", action="store_true", help="not even what a URL of your own names, unless it is public")
    add("--proxy", metavar="URL", help="http://host:port, for http and https; names are then resolved by the proxy")
    add(
        "--proxy-auth",
        metavar="USER:PASSWORD",
        help="for the proxy alone; @FILE reads it from a file, out of sight of other users",
    )
    add("--no-proxy", metavar="LIST", help="ask these directly: hosts with their subdomains, addresses, networks, *")
    add("--proxy-from-env", action="store_true", help="heed http_proxy, https_proxy, all_proxy and no_proxy")
    add("--client-cert", metavar="FILE", type=path, help="certificate of your own (PEM), for --client-cert-origin")
    add("--client-key", metavar="FILE", type=path, help="its private key, when that is in a file of its own")
    add("--client-key-password-file", metavar="FILE", type=path, help="first line: the password of that key")
    add(
        "--client-cert-origin",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="show the certificate to https://host[:port], and to nobody else; again for more",
    )
    add(
        "--insecure",
        metavar="ORIGIN",
        action="append",
        default=[],
        help="do NOT verify the certificate of https://host[:port]; again for more",
    )
    add("--netrc", action="store_true", help="take logins of https servers from ~/.netrc")
    add("--netrc-file", metavar="FILE", type=path, help="the same from another file")


def trust_options_given(arguments: argparse.Namespace) -> Iterator[str]:
    """The options about trust that were given: they are this process's, and reach no other."""
    return (option for name, option in _OPTIONS.items() if getattr(arguments, name, None))
