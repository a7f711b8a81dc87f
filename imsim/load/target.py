"""The server under test: its address, a check that it answers, and tokens for its users. Standard library only.

Under Locust's monkey patches, these blocking calls block only their own greenlet.
"""

from __future__ import annotations

import http.client
import json
from typing import Any
from urllib.parse import quote, urlsplit

from imsim.core.exceptions import RunError, UsageError

_LARGEST_ANSWER = 1 << 16


class Target:
    """The server at `url`, which is ws://host[:port][/path] or wss://host[:port][/path].

    Raises: UsageError for any other url.
    """

    def __init__(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise UsageError(f"url: must be ws://host:port or wss://host:port (got {url!r}: {error})") from None
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.username or parts.query or parts.fragment:
            raise UsageError(f"url: must be ws://host:port or wss://host:port (got {url!r})")
        self.url = url
        self.secure = parts.scheme == "wss"
        self.host = parts.hostname
        self.port = port or (443 if self.secure else 80)
        self._path = parts.path.rstrip("/")

    def check(self, timeout: float = 5.0) -> int:
        """Return the count of chatroom messages that the server has shed since its start.

        Raises: RunError if no server answers within `timeout` seconds.
        """
        missing = f"no server at {self.url}; start one with `imsim serve`"
        try:
            status, body = self._get("/healthz", {}, timeout)
        except TimeoutError:
            raise RunError(f"{missing} (no answer within {timeout:g} s)") from None
        except (OSError, http.client.HTTPException) as error:
            raise RunError(f"{missing} ({_reason(error)})") from None
        if status != 200:
            raise RunError(f"not a healthy imsim server at {self.url}: HTTP {status} in answer to GET /healthz")
        try:
            return int(json.loads(body).get("shed", 0))
        except (ValueError, TypeError, AttributeError):
            return 0  # another implementation of the server

    def token(self, user: str, key: str, timeout: float) -> str:
        """Request a token for `user`, with the server's `key`.

        Raises: RunError if the server refuses; OSError if it does not answer within `timeout` seconds.
        """
        headers = {"Authorization": f"Bearer {key}".encode()}
        try:
            status, body = self._get(f"/token?user={quote(user, safe='')}", headers, timeout)
        except http.client.HTTPException as error:  # the server closed the connection within its answer: retry as usual
            raise ConnectionError(_reason(error)) from None
        if status in (401, 403):
            raise RunError(f"the server at {self.url} refused the key: {_text(body)}")
        if status >= 500:
            raise ConnectionError(f"HTTP {status} in answer to GET /token")
        try:
            return str(json.loads(body)["token"])
        except (ValueError, TypeError, KeyError):
            raise RunError(f"no token from {self.url}: HTTP {status} in answer to GET /token: {_text(body)}") from None

    def _get(self, path: str, headers: dict[str, bytes], timeout: float) -> tuple[int, bytes]:
        kind: Any = http.client.HTTPSConnection if self.secure else http.client.HTTPConnection
        # Not urllib.request, because a load test must not use the proxy that the environment may name.
        connection = kind(self.host, self.port, timeout=timeout)
        try:
            connection.request("GET", self._path + path, headers=headers)
            response = connection.getresponse()
            return response.status, response.read(_LARGEST_ANSWER)
        finally:
            connection.close()


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _text(body: bytes) -> str:
    try:
        text = str(json.loads(body)["error"])
    except (ValueError, TypeError, KeyError):
        text = body.decode("utf-8", "replace")
    return " ".join(text.split())[:200] or "no reason given"
