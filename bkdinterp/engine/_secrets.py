"""Keeps a server's key out of what people read, save and send in clear. No forwards."""

import ipaddress
import re
import warnings
from urllib.parse import urlsplit

HIDDEN = "***"


def redacted(url: str) -> str:
    """An address without what stands before its host: ``http://user:key@host`` becomes ``http://***@host``."""
    return re.sub(r"//[^/?#]*@", f"//{HIDDEN}@", url)


def without_key(text: str, key: str | None) -> str:
    """A message without the key, should a server have repeated it."""
    return text.replace(key, HIDDEN) if key else text


def warn_of_clear_text(url: str, has_key: bool) -> None:
    """Warn where a key would cross a network unencrypted; on this machine it crosses none."""
    parts = urlsplit(url)
    carries = has_key or parts.username is not None
    if parts.scheme == "http" and carries and not _loopback(parts.hostname or ""):
        warnings.warn(
            f"The key is sent unencrypted to {redacted(url)}; use https://.", UserWarning, stacklevel=4
        )


def _loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
