"""Where a webhook may go: hosts that the settings name, and no private network unless the settings say so.

The address is looked up once, checked, and then used, so a name that resolves differently in between has no effect.
"""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from comel.errors import ComelError
from service.settings import JobSettings

__all__ = ["Target", "check_url", "connect", "resolve"]

LONGEST = 2000
_LAST_FOUR_BYTES = tuple(map(ipaddress.IPv6Network, ("64:ff9b::/96", "::/96", "::ffff:0:0:0/96")))
"""NAT64 (RFC 6052), and the older ways of writing an IPv4 address as one of IPv6."""
_LOCAL = tuple(map(ipaddress.ip_network, ("64:ff9b:1::/48", "fec0::/10", "192.88.99.0/24")))
"""NAT64 of a network's own (RFC 8215), site-local addresses and the relays of 6to4, which Python counts as global."""
_REMEDY = "ask the service's operator to add the host to webhook_hosts"


@dataclass(frozen=True)
class Target:
    """A webhook's parsed URL, and its host's address."""

    scheme: str
    host: str
    port: int
    path: str
    address: str


def check_url(url: str, settings: JobSettings) -> SplitResult:
    """Refuse a URL that a webhook must not have. Nothing is looked up.

    Raises:
        ComelError: the URL is refused.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ComelError("the webhook is not a URL", "give https://HOST/PATH") from None
    if not settings.webhook_hosts or settings.webhook_secret is None:
        raise ComelError("this service does not call webhooks", "poll the job, or ask its operator")
    if len(url) > LONGEST or not url.isascii() or not url.isprintable() or " " in url:
        raise ComelError("the webhook is not a URL", f"give https://HOST/PATH of at most {LONGEST} ASCII characters")
    if parts.scheme not in (("https", "http") if settings.webhook_private else ("https",)):
        raise ComelError("the webhook's URL must begin with https://", "give https://HOST/PATH")
    if parts.username is not None or parts.password is not None or parts.fragment:
        raise ComelError("the webhook's URL has a user or a fragment", "give https://HOST/PATH")
    named = host if port is None else f"{host}:{port}"
    if not any(host == allowed.lower() or named == allowed.lower() for allowed in settings.webhook_hosts):
        raise ComelError("the webhook's host is not one that this service may call", _REMEDY)
    return parts


def resolve(url: str, settings: JobSettings) -> Target:
    """Look the host up.

    Raises:
        ComelError: see :func:`check_url`; or the host has a private address.
        OSError: it has no address.
    """
    parts = check_url(url, settings)
    host = parts.hostname or ""
    port = parts.port or (443 if parts.scheme == "https" else 80)
    found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
    for address in found:
        if not settings.webhook_private and not _is_public(address):
            raise ComelError("the webhook's host has a private address", "ask the operator about webhook_private")
    path = parts.path or "/"
    return Target(parts.scheme, host, port, f"{path}?{parts.query}" if parts.query else path, found[0])


def connect(target: Target, *, timeout: float) -> http.client.HTTPConnection:
    """A connection to the address that was checked; for https the certificate must be the host's."""
    if target.scheme == "http":
        return _Plain(target, timeout)
    return _Secure(target, timeout)


def _is_public(address: str) -> bool:
    """Whether the address, and each IPv4 address that it stands for, is public."""
    parsed = ipaddress.ip_address(address.partition("%")[0])
    return all(
        one.is_global and not one.is_multicast and not any(one in network for network in _LOCAL)
        for one in (parsed, *_inside(parsed))
    )


def _inside(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> list[ipaddress.IPv4Address]:
    """The IPv4 addresses that a gateway or the system itself would make of an IPv6 address."""
    if isinstance(address, ipaddress.IPv4Address):
        return []
    found = [address.ipv4_mapped, address.sixtofour, *(address.teredo or ())]
    if any(address in network for network in _LAST_FOUR_BYTES):
        found.append(ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF))
    return [one for one in found if one is not None]


class _Plain(http.client.HTTPConnection):
    def __init__(self, target: Target, timeout: float) -> None:
        super().__init__(target.host, target.port, timeout=timeout)
        self._address = target.address

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), self.timeout)


class _Secure(_Plain):
    def connect(self) -> None:
        super().connect()
        self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
