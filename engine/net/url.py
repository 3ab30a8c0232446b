"""A URL, parsed once: the same parse serves policy and connecting, so the two can never disagree (M16)."""

from __future__ import annotations

import ipaddress
import re
from functools import lru_cache
from urllib.parse import quote, unquote, urljoin, urlsplit

import idna
import msgspec

from engine.errors import BadRedirect, InvalidRequest
from engine.net.fields import parse_count

URL_BYTES_MAX = 8 * 1024  # what servers commonly accept in a request line
HOST_CHARS_MAX = 253
DEFAULT_PORTS = {"http": 80, "https": 443}
# Ports of other protocols, whose servers could be made to act on what looks like a request (M19); as browsers have them
# (https://fetch.spec.whatwg.org/#port-blocking). Refused to whom the caller did not name himself.
FOREIGN_PORTS = frozenset(
    {
        *(1, 7, 9, 11, 13, 15, 17, 19, 20, 21, 22, 23, 25, 37, 42, 43, 53, 69, 77, 79, 87, 95, 101, 102, 103, 104),
        *(109, 110, 111, 113, 115, 117, 119, 123, 135, 137, 139, 143, 161, 179, 389, 427, 465, 512, 513, 514, 515),
        *(526, 530, 531, 532, 540, 548, 554, 556, 563, 587, 601, 636, 989, 990, 993, 995, 1719, 1720, 1723, 2049),
        *(3306, 3389, 3659, 4045, 4190, 5060, 5061, 5432, 6000, 6379, 6566, 6665, 6666, 6667, 6668, 6669, 6679, 6697),
        *(9100, 10080, 11211, 27017),
    }
)

# Printable ASCII stays as the caller wrote it (signed URLs are compared byte by byte); `%` too, so %XX is kept.
_KEPT = "".join(map(chr, range(0x21, 0x7F)))
_ASCII = "".join(map(chr, range(0x80)))
_PREFIX = re.compile(r"(https?)://", re.ASCII | re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.\-]*:", re.ASCII | re.IGNORECASE)
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<name>[^\[\]:@%/]+))(?::(?P<port>[0-9]+))?", re.ASCII)
_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_\-]{0,61}[a-z0-9_])?", re.ASCII)
_NUMBER_LIKE = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)


class Origin(msgspec.Struct, frozen=True):
    """Scheme, host and port: what credentials and connections are bound to."""

    scheme: str
    host: str
    port: int

    @property
    def host_header(self) -> str:
        """The value of the Host field: brackets around an IPv6 address, no default port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == DEFAULT_PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host_header}"


class Url(msgspec.Struct, frozen=True):
    """An absolute http or https URL. ``host`` is lower-case ASCII (IPv6 without brackets), ``target`` is path and query
    as they go on the wire. ``secret``: nobody is shown more than its origin, for its path may be a key too; where it
    redirects is as secret."""

    scheme: str
    host: str
    port: int
    target: str
    secret: bool = False

    @property
    def origin(self) -> Origin:
        """Scheme, host and port."""
        return _origin(self.scheme, self.host, self.port)

    @property
    def host_header(self) -> str:
        """The value of the Host field."""
        return self.origin.host_header

    @property
    def last_segment(self) -> str:
        """The last segment of the path, percent-decoded, else untouched; may be empty. Not safe as a file name."""
        path = self.target.partition("?")[0]
        return unquote(path.rpartition("/")[2], errors="replace")

    def redacted(self) -> str:
        """For people and logs: every query value is replaced, for signatures and tokens live there (M24); of a secret
        one everything behind the origin."""
        if self.secret:
            return f"{self.origin}/…"
        path, mark, query = self.target.partition("?")
        if not mark:
            return str(self)
        hidden = "&".join(
            f"{key}=…" if equals else "…" for key, equals, _ in (p.partition("=") for p in query.split("&"))
        )
        return f"{self.origin}{path}?{hidden}"

    def __str__(self) -> str:
        return f"{self.origin}{self.target}"

    def __repr__(self) -> str:
        return f"Url({self.redacted()!r})"


_origin = lru_cache(maxsize=1024)(Origin)  # asked for several times a request; one that is made costs ten times as much


@lru_cache(maxsize=4096)  # parsed when it is asked for, and again when its turn has come
def parse_url(text: str) -> Url:
    """The URL in ``text``; its fragment is dropped. Raises InvalidRequest for anything but a plain http or https URL:
    userinfo, control characters, spaces, backslashes, abbreviated or numeric IPv4 hosts, zone ids, odd ports."""
    _refuse_bad_characters(text)
    prefix = _PREFIX.match(text)
    if prefix is None:
        raise InvalidRequest("a URL must begin with http:// or https://")
    try:
        netloc = urlsplit(text).netloc
    except ValueError:  # its words repeat the host, and a password before it
        raise InvalidRequest("the URL's host is not valid") from None
    rest = text[prefix.end() :]
    if not rest.startswith(netloc):
        raise InvalidRequest("the URL's host is not valid")
    scheme = prefix[1].lower()
    host, port = _parse_authority(netloc, scheme)
    target = quote(rest[len(netloc) :].partition("#")[0], safe=_KEPT)
    if not target.startswith("/"):
        target = "/" + target
    if len(target) > URL_BYTES_MAX:
        raise InvalidRequest(f"the URL is longer than {URL_BYTES_MAX} bytes")
    return Url(scheme, host, port, target)


def resolve_location(base: Url, location: str) -> Url:
    """Where a redirect from ``base`` leads. ``location`` is as the head gave it, one character per byte. Raises
    BadRedirect for an unusable one and for https to http (S30, S31)."""
    try:
        text = quote(location.encode("latin-1"), safe=_ASCII)  # what is unsafe in ASCII stays, to be refused
        _refuse_bad_characters(text)
        if _SCHEME.match(text) and not _PREFIX.match(text):
            raise InvalidRequest("only http:// and https:// are followed")
        if not text or text.startswith("///"):
            raise InvalidRequest("it names no place")
        url = msgspec.structs.replace(parse_url(urljoin(str(base), text)), secret=base.secret)
    except (ValueError, InvalidRequest) as error:
        raise BadRedirect(f"{base.redacted()} redirects to a Location that is refused: {error}") from None
    if base.scheme == "https" and url.scheme != "https":
        raise BadRedirect(f"{base.redacted()} redirects from https to {url.redacted()}, which would drop TLS")
    return url


def _refuse_bad_characters(text: str) -> None:
    if not isinstance(text, str):
        raise InvalidRequest("a URL must be text")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise InvalidRequest("the URL holds a lone surrogate") from None
    if size > URL_BYTES_MAX:
        raise InvalidRequest(f"the URL is longer than {URL_BYTES_MAX} bytes")
    for character in text:
        if character < "!" or character == "\\" or "\x7f" <= character <= "\x9f" or character.isspace():
            raise InvalidRequest(f"the URL holds {character!r}, which must be percent-encoded")


def _parse_authority(netloc: str, scheme: str) -> tuple[str, int]:
    if "@" in netloc:
        raise InvalidRequest("a URL with a user name or password is refused; give credentials as headers")
    match = _AUTHORITY.fullmatch(netloc)
    if match is None:
        raise InvalidRequest("the URL's host or port is not valid")
    port = DEFAULT_PORTS[scheme]
    if match["port"] is not None:
        given = parse_count(match["port"], digits_max=5)
        if given is None or not 1 <= given <= 65535:
            raise InvalidRequest("the URL's port must be between 1 and 65535")
        port = given
    if match["v6"] is not None:
        try:
            return str(ipaddress.IPv6Address(match["v6"])), port
        except ValueError:
            raise InvalidRequest("the URL's IPv6 address is not valid") from None
    return _parse_name(match["name"]), port


def _parse_name(name: str) -> str:
    """A host name in ASCII lower case, or a strictly dotted IPv4 address."""
    if len(name) > HOST_CHARS_MAX:
        raise InvalidRequest("the URL's host name is too long")
    if not name.isascii():
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError:
            raise InvalidRequest("the URL's host name is not a valid international name") from None
    name = name.lower()
    labels = name.split(".")
    if len(name) > HOST_CHARS_MAX or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequest("the URL's host name is not valid")
    if _NUMBER_LIKE.fullmatch(labels[-1]):
        try:
            return str(ipaddress.IPv4Address(name))
        except ValueError:
            raise InvalidRequest("an IPv4 address must be four plain decimal numbers") from None
    return name
