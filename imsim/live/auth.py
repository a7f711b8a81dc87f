"""Who may log in: session tokens, and the HTTP answers beside the WebSocket that hand them out."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import jwt

from imsim.core.exceptions import BadName, UsageError
from imsim.core.model import Code, check_name

_ALGORITHM = "HS256"


class Tokens:
    """Session tokens: JSON Web Tokens (RFC 7519) signed with HMAC-SHA256, with the user as `sub`.

    The signing secret derives from `secret` alone, so a token outlives a restart of the server, and any server with the
    same secret can verify it. `lifetime` in seconds. Times are wall time in seconds since 1970, and arguments.
    """

    def __init__(self, secret: str, lifetime: float) -> None:
        if not secret:
            raise UsageError("key: an empty key would let everybody in; choose one")
        self._secret = hmac.digest(secret.encode(), b"imsim session tokens", hashlib.sha256)
        self._lifetime = lifetime

    def issue(self, user: str, now_wall: float) -> tuple[str, float]:
        """A token for `user`, and when it expires.

        Raises: BadName.
        """
        expires_at = now_wall + self._lifetime
        claims = {"sub": check_name("user", user), "iat": now_wall, "exp": expires_at}
        return jwt.encode(claims, self._secret, _ALGORITHM), expires_at

    def verify(self, token: str, now_wall: float) -> Verdict:
        """Whose token it is, or why it is none: bad_token or token_expired."""
        try:
            # PyJWT would compare `exp` with the machine's clock; ours is injected.
            options: Any = {"require": ["sub", "iat", "exp"], "verify_exp": False, "verify_iat": False}
            claims = jwt.decode(token, self._secret, [_ALGORITHM], options=options)
            user, issued_at, expires_at = check_name("sub", claims["sub"]), float(claims["iat"]), float(claims["exp"])
        except (jwt.InvalidTokenError, BadName, TypeError, ValueError):
            return Verdict(None, Code.BAD_TOKEN)
        return Verdict(user, None, issued_at) if now_wall < expires_at else Verdict(None, Code.TOKEN_EXPIRED)


class Verdict(NamedTuple):
    """`user` or `code` is None; `issued_at` is the token's wall time, seconds since 1970."""

    user: str | None
    code: Code | None
    issued_at: float = 0.0


class Answer(NamedTuple):
    """An HTTP response: its status code, its JSON body, and headers beyond the usual."""

    status: int
    body: bytes
    headers: dict[str, str]


class Revocation(NamedTuple):
    """What was asked is to revoke the tokens of this user; `revoked` is the answer, once it is known."""

    user: str

    def revoked(self, *, kept: bool) -> Answer:
        if kept:
            return _json(200, {"revoked": self.user})
        text = "the sessions have ended, but storage has not said that it keeps the revocation; ask again"
        return _error(503, text)


_METHODS = {"/token": "GET", "/revoke": "POST", "/healthz": "GET"}


class FrontDesk:
    """The HTTP side of a server: `GET /token?user=alice` and `POST /revoke?user=alice` against the key, and
    `GET /healthz`."""

    def __init__(self, key: str, tokens: Tokens) -> None:
        self._key = key.encode()
        self._tokens = tokens

    def answer(
        self, method: str, target: str, authorization: str | None, health: Mapping[str, int], now_wall: float
    ) -> Answer | Revocation | None:
        """The response to a request of `target` (a path with its query), or what is to be done first; None for `/`,
        which is the WebSocket's.

        `authorization` is the header of that name, `health` what /healthz is to report.
        """
        url = urlsplit(target)
        if url.path == "/":
            return None
        if url.path not in _METHODS:
            return _error(404, "there are / (the WebSocket), /token?user=NAME, /revoke?user=NAME and /healthz")
        if method != _METHODS[url.path]:
            allowed = _METHODS[url.path]
            return _error(405, f"{url.path}: use {allowed}")._replace(headers={"Allow": allowed})
        if url.path == "/healthz":
            return _json(200, {"status": "ok", **health})
        users = parse_qs(url.query, keep_blank_values=True).get("user", [""])
        return self._with_key(url.path, users, authorization or "", now_wall)

    def _with_key(self, path: str, users: list[str], authorization: str, now_wall: float) -> Answer | Revocation:
        scheme, _, key = authorization.partition(" ")
        # Header values are bytes that HTTP libraries show as Latin-1.
        given = key.strip().encode("latin-1", "replace")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._key):
            answer = _error(401, "wrong key; send the header 'Authorization: Bearer KEY' with the server's key")
            return answer._replace(headers={"WWW-Authenticate": "Bearer"})
        if len(users) > 1:  # whichever were taken, it might be the one that a proxy before this server did not check
            return _error(400, "user: give it once")
        user = users[0]
        try:
            token, expires_at = self._tokens.issue(user, now_wall)
        except BadName as error:
            return _error(400, str(error))
        if path == "/revoke":
            return Revocation(user)
        return _json(200, {"token": token, "user": user, "expiresAt": int(expires_at * 1000)})


def _json(status: int, value: dict[str, object]) -> Answer:
    return Answer(status, json.dumps(value).encode(), {})


def _error(status: int, text: str) -> Answer:
    return _json(status, {"error": text})
