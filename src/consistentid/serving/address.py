"""What those who serve and those who call have in common; those who call need no library of the service."""

from __future__ import annotations

import ipaddress
from typing import Final

TOKEN_VARIABLE: Final = "CONSISTENTID_TOKEN"
"""Environment variable with the token of the service."""


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine alone."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"
