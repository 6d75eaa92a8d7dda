"""The signature of a webhook call: ``Comel-Signature: t=<seconds>,v1=<hex>``.

``v1`` is HMAC-SHA256 with the shared secret over the seconds, a dot, and the body as it is sent. A receiver compares it in
constant time, and refuses a time that is minutes away: then nobody can send an old call again.
"""

from __future__ import annotations

import hashlib
import hmac

__all__ = ["HEADER", "sign", "verify"]

HEADER = "Comel-Signature"


def sign(secret: str, body: bytes, *, at: int) -> str:
    """The header's value for a call made ``at`` seconds since 1970."""
    return f"t={at},v1={_mac(secret, body, at)}"


def verify(secret: str, body: bytes, header: str, *, now: float, tolerance: float = 300) -> bool:
    """Whether a call is genuine and recent; for receivers written in Python."""
    try:
        said = dict(part.split("=", 1) for part in header.split(","))
        at, given = int(said["t"]), said["v1"]
    except (KeyError, ValueError):
        return False
    return abs(now - at) <= tolerance and hmac.compare_digest(_mac(secret, body, at), given)


def _mac(secret: str, body: bytes, at: int) -> str:
    return hmac.new(secret.encode(), f"{at}.".encode() + body, hashlib.sha256).hexdigest()
