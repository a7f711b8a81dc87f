"""Authentication: session tokens, and the server's HTTP endpoints that issue and revoke them."""

from __future__ import annotations

import hashlib
import hmac
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

import jwt

from imsim.core.exceptions import BadName, UsageError
from imsim.core.model import Code, check_name

_ALGORITHM = "HS256"
_HEADER = jwt.encode({}, "x" * 32, _ALGORITHM).partition(".")[0]  # of the tokens that this server issues
_CLAIMS = {"sub", "iat", "exp"}


class Tokens:
    """The issuer and verifier of session tokens: JSON Web Tokens (RFC 7519), signed with HMAC-SHA256.

    The claim `sub` holds the user. The signing key derives from `secret` alone. So a token remains valid after a
    restart of the server, and any server with the same secret can verify it. `lifetime` is in seconds. Times are wall
    time in seconds since 1970; the caller passes them in.

    Raises: UsageError if `secret` is empty.
    """

    def __init__(self, secret: str, lifetime: float) -> None:
        if not secret:
            raise UsageError("key: must not be empty (anyone could log in); choose a secret")
        self._secret = hmac.digest(secret.encode(), b"imsim session tokens", hashlib.sha256)
        self._lifetime = lifetime

    def issue(self, user: str, now_wall: float) -> tuple[str, float]:
        """Return a new token for `user`, and its expiry time.

        Raises: BadName if `user` is not a valid name.
        """
        expires_at = now_wall + self._lifetime
        claims = {"sub": check_name("user", user), "iat": now_wall, "exp": expires_at}
        return jwt.encode(claims, self._secret, _ALGORITHM), expires_at

    def verify(self, token: str, now_wall: float) -> Verdict:
        """Return the user of a valid token, or the code of the refusal: bad_token or token_expired."""
        try:
            claims = self._own_claims(token) or self._any_claims(token)
            user, issued_at, expires_at = check_name("sub", claims["sub"]), _time(claims["iat"]), _time(claims["exp"])
        except Exception:  # the token can contain anything, and PyJWT does not turn every error into its own
            return Verdict(None, Code.BAD_TOKEN)
        return Verdict(user, None, issued_at) if now_wall < expires_at else Verdict(None, Code.TOKEN_EXPIRED)

    def _own_claims(self, token: str) -> dict[str, Any] | None:
        """Return the claims of a valid token with the form that `issue` gives it; None for any other token.

        PyJWT takes eight times as long, and this is a sixth of the work of a login.
        """
        signed, _, signature = token.rpartition(".")
        header, _, payload = signed.partition(".")
        if header != _HEADER:
            return None
        digest = urlsafe_b64encode(hmac.digest(self._secret, signed.encode(), "sha256")).rstrip(b"=")
        if not hmac.compare_digest(digest, signature.encode()):
            return None
        claims = json.loads(urlsafe_b64decode(payload + "=="))
        return claims if claims.keys() == _CLAIMS else None

    def _any_claims(self, token: str) -> dict[str, Any]:
        # PyJWT would compare `exp` with the clock of this computer. Here the caller of `verify` passes the time in.
        options: Any = {"require": list(_CLAIMS), "verify_exp": False, "verify_iat": False}
        return jwt.decode(token, self._secret, [_ALGORITHM], options=options)


def _time(claim: object) -> float:
    """Return a claim that is a time. Raises: ValueError or OverflowError if it is not a finite number."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        raise ValueError("not a time")
    return float(claim)


class Verdict(NamedTuple):
    """The result of verifying a token: `user` if it is valid, otherwise `code`; the other one is None.

    `issued_at` is the wall time at which the token was issued, in seconds since 1970.
    """

    user: str | None
    code: Code | None
    issued_at: float = 0.0


class Answer(NamedTuple):
    """An HTTP response: status code, JSON body, and headers besides those that every response has."""

    status: int
    body: bytes
    headers: dict[str, str]


class Revocation(NamedTuple):
    """A valid request to revoke all tokens of `user`. The server carries it out, then sends `answer`."""

    user: str

    def answer(self, *, stored: bool) -> Answer:
        """Return the HTTP response. `stored`: whether storage has acknowledged the revocation."""
        if stored:
            return _json(200, {"revoked": self.user})
        return _error(
            503, "the sessions have ended, but storage has not confirmed the revocation; send the request again"
        )


_METHODS = {"/token": "GET", "/revoke": "POST", "/healthz": "GET"}


class HttpEndpoints:
    """The HTTP endpoints of a server: `GET /token?user=alice`, `POST /revoke?user=alice` and `GET /healthz`.

    The first two require the server's key in the header `Authorization: Bearer KEY`.
    """

    def __init__(self, key: str, tokens: Tokens) -> None:
        self._key = key.encode()
        self._tokens = tokens

    def answer(
        self, method: str, target: str, authorization: str | None, health: Mapping[str, int], now_wall: float
    ) -> Answer | Revocation | None:
        """Return the response to a request for `target` (a path with its query).

        Return a Revocation if the server must first revoke tokens. Return None for `/`, the path of the WebSocket.
        `authorization` is the header of that name; `health` is the content of /healthz.
        """
        try:
            url = urlsplit(target)
        except ValueError as error:
            return _error(400, f"the target of the request is not a URL: {error}")
        if url.path == "/":
            return None
        if url.path not in _METHODS:
            known = "/ (the WebSocket), /token?user=NAME, /revoke?user=NAME, /healthz"
            return _error(404, f"unknown path; the server has {known}")
        if method != _METHODS[url.path]:
            allowed = _METHODS[url.path]
            answer = _error(405, f"{url.path}: the method must be {allowed} (got {method})")
            return answer._replace(headers={"Allow": allowed})
        if url.path == "/healthz":
            return _json(200, {"status": "ok", **health})
        users = parse_qs(url.query, keep_blank_values=True).get("user", [""])
        return self._with_key(url.path, users, authorization or "", now_wall)

    def _with_key(self, path: str, users: list[str], authorization: str, now_wall: float) -> Answer | Revocation:
        scheme, _, key = authorization.partition(" ")
        # HTTP libraries decode header values as Latin-1; this restores the bytes.
        given = key.strip().encode("latin-1", "replace")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._key):
            answer = _error(401, "wrong key; send the header 'Authorization: Bearer KEY' with the key of the server")
            return answer._replace(headers={"WWW-Authenticate": "Bearer"})
        if len(users) > 1:  # a proxy in front of this server may have checked only one of them
            return _error(400, f"user: must be given once (got {len(users)})")
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
