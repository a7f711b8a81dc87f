"""The access of a client to its server: the token for the next login, and where a new one comes from."""

from __future__ import annotations

import asyncio
import base64
import inspect
import json
import math
import time
from collections.abc import Awaitable, Callable
from ssl import SSLContext

from websockets.uri import WebSocketURI

from imsim.core.exceptions import UsageError
from imsim.core.model import Code
from imsim.live.client.credentials import get_token

TokenSource = Callable[[], Awaitable[str]]

_MARGIN = 30.0  # seconds before its expiry after which a token is not used for another login


class TokenSourceFailed(Exception):
    """The application's function for tokens raised an error, or returned something else than a token."""


class Access:
    """The token of one client. Exactly one of `token`, `key` and `source` is given.

    With the server's `key`, the client requests tokens from the server. `source` is an asynchronous function of the
    application that returns a token. From either, a token is requested when there is none yet, when the present one
    expires within 30 s, and after the server has refused it. `wall` returns the time in seconds since 1970.

    Raises: UsageError if not exactly one is given, or one has a wrong type.
    """

    def __init__(
        self,
        user: str,
        token: str | None,
        key: str | None,
        source: TokenSource | None,
        wall: Callable[[], float] = time.time,
    ) -> None:
        given = [
            name for name, value in (("token", token), ("key", key), ("token_source", source)) if value is not None
        ]
        if len(given) != 1:
            names = " and ".join(given) or "none"
            raise UsageError(
                f"{user}: exactly one of token, key and token_source must be given (got {names}); give a token, the"
                " server's key, or an async function that returns a token"
            )
        for name, text in (("token", token), ("key", key)):
            if text is not None and not isinstance(text, str):
                raise UsageError(f"{name}: must be a text (got {type(text).__name__})")
        if source is not None and not callable(source):
            raise UsageError(f"token_source: must be an async function (got {type(source).__name__})")
        if key is not None and not (key.isprintable() and key == key.strip()):
            raise UsageError(
                "key: must be printable, without spaces or line breaks at its ends; if it comes from a file, strip it"
            )
        self._user = user
        self._key = key
        self._source = source
        self._wall = wall
        self._token = token
        self._expires = math.inf
        self._is_fresh = False  # whether no login with the token has succeeded or failed yet

    @property
    def renews(self) -> bool:
        """Whether a new token can be requested."""
        return self._key is not None or self._source is not None

    @property
    def late(self) -> str:
        """The reason of a failure if no token arrives in time."""
        return "token_source: returned no token in time" if self._source is not None else "no answer in time"

    async def token(self, uri: WebSocketURI, ssl: SSLContext | None) -> str:
        """Return the token for the next login. Request a new one if necessary.

        Raises: OSError if the server does not answer; Unauthorized if it refuses; TokenSourceFailed.
        """
        if self._token is None or (self.renews and self._wall() >= self._expires - _MARGIN):
            if self._key is not None:
                self._token = await get_token(uri, self._user, self._key, ssl)
            else:
                self._token = await self._from_source()
            self._expires = _expiry(self._token)
            self._is_fresh = True
        return self._token

    def used(self) -> None:
        """Note that the server has accepted the token."""
        self._is_fresh = False

    def refused(self, code: Code) -> bool:
        """Note that the server has refused the token, and return whether a new connection can help.

        A new token replaces an expired one. It also replaces one that was valid before, because the server can have
        another key now. But a new token that is refused at once as `bad_token` would be refused again.
        """
        if not self.renews or code not in (Code.TOKEN_EXPIRED, Code.BAD_TOKEN):
            return False
        self._token = None
        return code is Code.TOKEN_EXPIRED or not self._is_fresh

    async def _from_source(self) -> str:
        assert self._source is not None
        try:
            given = self._source()
            token = await given if inspect.isawaitable(given) else given
        except asyncio.CancelledError as error:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise  # the client has given up this attempt
            raise TokenSourceFailed("token_source: was cancelled") from error
        except Exception as error:
            raise TokenSourceFailed(f"token_source: {type(error).__name__}: {error}") from error
        if not isinstance(token, str) or not token:
            raise TokenSourceFailed(f"token_source: must return a token (got {type(token).__name__})")
        return token


def _expiry(token: str) -> float:
    """Return the time at which a JSON Web Token expires, in seconds since 1970, or infinity if it does not say so."""
    try:
        payload = token.split(".")[1]
        claim = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))["exp"]
        return float(claim) if isinstance(claim, int | float) else math.inf
    except (ValueError, LookupError, TypeError, OverflowError):
        return math.inf
