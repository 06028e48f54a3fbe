"""Who may use the service: bearer tokens, and pages of other sites, which a browser would let call a local service."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import Scope

from consistentid.errors import InputError
from consistentid.files.reading import read_bytes
from consistentid.serving.address import is_loopback
from consistentid.serving.refusal import RefusedError

OPEN = ("/health", "/ready")
"""Paths that need no token: they say nothing of anybody."""

_SHORTEST = 16


def read_tokens(path: Path) -> tuple[str, ...]:
    """The tokens of a file, one a line; empty lines and those that begin with # are passed over.

    Raises:
        InputError: it cannot be read, holds none, or one that is too short to be secret.
    """
    try:
        lines = [line.strip() for line in read_bytes(path, 1 << 20, what="file of tokens").decode().splitlines()]
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: cannot be read ({error}); name a text file with one token a line") from None
    return check_tokens([line for line in lines if line and not line.startswith("#")], str(path))


def check_tokens(tokens: Iterable[str], source: str) -> tuple[str, ...]:
    """Tokens that can be secrets.

    Raises:
        InputError: none at all, or one too short or not of ASCII.
    """
    found = tuple(tokens)
    if not found:
        raise InputError(f"{source}: holds no token; write one a line, such as `openssl rand -hex 24` prints")
    for number, token in enumerate(found, 1):
        if len(token) < _SHORTEST or not token.isascii() or any(map(str.isspace, token)):
            raise InputError(
                f"{source}: token {number} is no secret; give at least {_SHORTEST} ASCII characters without spaces,"
                " such as `openssl rand -hex 24` prints"
            )
    return found


class Access:
    """Decides for each HTTP request whether it is let in.

    Args:
        tokens: any of which is good; none = everybody who reaches the service.
        loopback: whether it listens to this machine alone. Without tokens it then answers to names of this machine
            only, so that a web page whose name was made to point here cannot reach it.
    """

    def __init__(self, tokens: Iterable[str] = (), *, loopback: bool = True) -> None:
        self._digests = [_digest(token.encode()) for token in tokens]
        self._loopback = loopback

    def client(self, scope: Scope) -> str:
        """Whose request it is, without the token itself: who shares it shares the limits.

        Raises:
            RefusedError: it is not let in.
        """
        headers = Headers(scope=scope)
        host = headers.get("host", "")
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc != host:
            raise RefusedError(403, "foreign_origin", "pages of other sites may not call this service")
        if not self._digests and self._loopback and not is_loopback(_name(host)):
            raise RefusedError(
                403, "foreign_host", "without a token this service answers to localhost only; start it with a token"
            )
        address = (scope.get("client") or ("unknown", 0))[0]
        if not self._digests or scope["path"] in OPEN:
            return f"address {address}"
        kind, token = _credentials(headers.get("authorization", ""))
        found = _digest(token)
        # every one is compared, and each in constant time, so that the time taken tells nothing
        good = [hmac.compare_digest(found, digest) for digest in self._digests]
        if kind not in ("bearer", "basic") or not any(good):
            raise RefusedError(
                401,
                "no_access",
                "a token is needed: send the header 'Authorization: Bearer TOKEN', or type it as password",
            )
        return f"token {good.index(True) + 1}"


def _credentials(header: str) -> tuple[str, bytes]:
    """The kind of an Authorization header, in small letters, and its token: a browser's is the password it asks for."""
    kind, _, given = header.partition(" ")
    token = given.strip().encode("latin-1", "replace")
    if kind.lower() == "basic":
        try:
            token = base64.b64decode(token, validate=True).partition(b":")[2]
        except binascii.Error:
            token = b""
    return kind.lower(), token


def _digest(token: bytes) -> bytes:
    return hashlib.sha256(token).digest()


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
