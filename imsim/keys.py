"""The key of a server, which authorizes requests for tokens: its rules, and where it comes from."""

from __future__ import annotations

import os
from os import PathLike
from pathlib import Path

from imsim import disk
from imsim.core.exceptions import UsageError

#: The key if none is given. It is public, so a server accepts it only on the loopback interface.
DEFAULT_KEY = "imsim"

#: The environment variable that can hold the key.
VARIABLE = "IMSIM_KEY"

#: The characters that a key needs if other computers can reach the server, because they can guess keys.
SHORTEST = 16

_REMEDY = (
    f"put a secret into a file for --key-file, or into the variable {VARIABLE}: "
    "python -c 'import secrets; print(secrets.token_urlsafe())'"
)


def choose_key(key: str | None = None, file: str | PathLike[str] | None = None) -> str:
    """Return the key: `key`, the content of `file`, the environment variable IMSIM_KEY, or the default key.

    Raises: UsageError if `key` and `file` are both given, or if the key is empty or not valid.
    """
    if key is not None and file is not None:
        raise UsageError("key and key file: give one of them, not both")
    if key is not None:
        return check_key(key)
    if file is not None:
        return check_key(_read(file), f"key file {os.fspath(file)}")
    variable = os.environ.get(VARIABLE)
    return DEFAULT_KEY if variable is None else check_key(variable, VARIABLE)


def check_key(key: str, source: str = "key") -> str:
    """Return `key` if an HTTP header can carry it. Raises: UsageError, which names the source of the key."""
    if not isinstance(key, str):
        raise UsageError(f"{source}: expected a text (got {type(key).__name__})")
    if not key.strip():
        raise UsageError(f"{source}: must not be empty, because then anyone could log in; {_REMEDY}")
    if key != key.strip() or not key.isprintable():
        raise UsageError(f"{source}: must be one line without spaces at its ends")
    return key


def check_exposed_key(key: str, host: str) -> None:
    """Check the key of a server that other computers can reach at `host`. Raises: UsageError."""
    if key == DEFAULT_KEY:
        problem = f"the default key {DEFAULT_KEY!r} is public"
    elif len(key) < SHORTEST:
        problem = f"the key must have at least {SHORTEST} characters there (got {len(key)})"
    else:
        return
    raise UsageError(f"host: other computers can reach {host}, and {problem}; {_REMEDY}")


def _read(file: str | PathLike[str]) -> str:
    try:
        with disk.errors("read", file, name="key file"):
            return Path(file).read_text(encoding="utf-8-sig").strip()  # editors may add a byte order mark
    except UnicodeDecodeError:
        raise UsageError(f"key file {os.fspath(file)}: must be UTF-8 text with the key in one line") from None
