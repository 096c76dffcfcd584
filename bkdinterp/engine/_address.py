"""The address of a server: checked, and shown without secrets. No forwards."""

import ipaddress
import os
import warnings
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

from bkdinterp.errors import RemoteError
from bkdinterp.values import shown

HIDDEN = "***"


class Secret:
    """A key that is never in a repr or pickle; it is empty when unpickled. Copies in this process keep it."""

    def __init__(self, value: str | None = None) -> None:
        self._value = value

    def reveal(self) -> str | None:
        """The key, or None."""
        return self._value

    def __repr__(self) -> str:
        return HIDDEN if self._value else "None"

    def __copy__(self) -> "Secret":
        return self

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> tuple[type["Secret"], tuple[()]]:
        return Secret, ()


def split_key(host: Any) -> tuple[str, str | None]:
    """An address without user and password, and the key in it (``http://user:KEY@host``), if there is one.

    Raises:
        RemoteError: ``host`` is not the address of a server.
    """
    parts = _parts(host)
    key = parts.password or parts.username or None
    place = parts.netloc.rpartition("@")[2]
    return urlunsplit(parts._replace(netloc=place)).rstrip("/"), key


def warn_in_clear(host: str, key: str | None) -> None:
    """Warn if a key would be sent unencrypted over a network: http to another machine."""
    parts = urlsplit(host)
    if key and parts.scheme == "http" and not _is_here(parts.hostname or ""):
        warnings.warn(
            f"The API key goes to {host} unencrypted; use https://, or a tunnel to http://localhost.",
            UserWarning,
            stacklevel=3,
        )


def redacted(text: str, *secrets: str | None) -> str:
    """The text with all secrets removed."""
    for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return text


def environment_key() -> str | None:
    """``NDIF_API_KEY``, if it is set."""
    return os.environ.get("NDIF_API_KEY") or None


def _parts(host: Any) -> SplitResult:
    fault = "must start with http:// or https:// and name a machine"
    if not isinstance(host, str):
        raise RemoteError(f"host={shown(host)} is not the address of a server; it {fault}.")
    try:
        parts = urlsplit(host.strip())
        _ = parts.port  # raises for a port that is not a number
    except ValueError as error:
        # The part before the @ may hold a key.
        raise RemoteError(
            f"host=...{shown(host.rpartition('@')[2])} is not a valid address ({error})."
        ) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise RemoteError(f"{shown(host.rpartition('@')[2])} is not the address of a server; it {fault}.")
    return parts


def _is_here(name: str) -> bool:
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
