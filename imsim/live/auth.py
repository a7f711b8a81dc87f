"""Authentication: session tokens, and the server's HTTP endpoints that issue and revoke them."""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import json
import math
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol
from urllib.parse import parse_qs, urlsplit

import jwt

from imsim.core.exceptions import BadName
from imsim.core.model import Code, check_name
from imsim.keys import DEFAULT_KEY, check_key

_ALGORITHM = "HS256"
_HEADER = jwt.encode({}, "x" * 32, _ALGORITHM).partition(".")[0]  # of the tokens that this server issues
_REQUIRED = {"sub", "iat", "exp"}
_CLAIMS = {*_REQUIRED, "log", "rev"}  # of the tokens that this server issues


class Revocations(Protocol):
    """The revocations in a storage. `log` names its data; "" stands for no storage.

    `latest_revocation` is the highest `before` of a revocation so far, of any user; 0.0 if there was none.
    """

    @property
    def log(self) -> str: ...

    @property
    def latest_revocation(self) -> float: ...


class _NoRevocations:
    log = ""
    latest_revocation = 0.0


class Tokens:
    """The issuer and verifier of session tokens: JSON Web Tokens (RFC 7519), signed with HMAC-SHA256.

    The claim `sub` holds the user. The signing key derives from `secret` alone. So a token remains valid after a
    restart of the server, and any server with the same secret can verify it. `lifetime` is in seconds. Times are wall
    time in seconds since 1970; the caller passes them in.

    The clock may be set back, so `iat` does not show whether a token is older than a revocation. Instead, a token names
    the latest revocation that its issuer knew (`rev`) and the storage of that revocation (`log`). A token of another
    storage, or without these claims, can only be compared by `iat`.

    Raises: UsageError if `secret` is empty or not valid.
    """

    def __init__(self, secret: str, lifetime: float, revocations: Revocations | None = None) -> None:
        self._revocations = revocations or _NoRevocations()
        self._requested = 0.0  # the latest revocation of this server, which storage may not have yet
        self._secret = hmac.digest(check_key(secret).encode(), b"imsim session tokens", hashlib.sha256)
        self._lifetime = lifetime

    def issue(self, user: str, now_wall: float) -> tuple[str, float]:
        """Return a new token for `user`, and its expiry time.

        Raises: BadName if `user` is not a valid name.
        """
        expires_at = now_wall + self._lifetime
        claims = {"sub": check_name("user", user), "iat": now_wall, "exp": expires_at}
        if self._revocations.log:
            claims |= {"log": self._revocations.log, "rev": self._latest_revocation()}
        return jwt.encode(claims, self._secret, _ALGORITHM), expires_at

    def revocation(self, now_wall: float) -> float:
        """Return the time of a new revocation. Tokens issued so far are older, and tokens issued from now on are not.

        It is later than the times of all earlier revocations, even if the clock was set back.
        """
        self._requested = max(now_wall, math.nextafter(self._latest_revocation(), math.inf))
        return self._requested

    def _latest_revocation(self) -> float:
        return max(self._requested, self._revocations.latest_revocation)

    def verify(self, token: str, now_wall: float) -> Verdict:
        """Return the user of a valid token, or the code of the refusal: bad_token or token_expired."""
        try:
            claims = self._own_claims(token) or self._any_claims(token)
            user, issued_at, expires_at = check_name("sub", claims["sub"]), _time(claims["iat"]), _time(claims["exp"])
            if self._revocations.log and claims.get("log") == self._revocations.log:
                issued_at = _time(claims["rev"])
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
        return claims if claims.keys() <= _CLAIMS else None

    def _any_claims(self, token: str) -> dict[str, Any]:
        # PyJWT would compare `exp` with the clock of this computer. Here the caller of `verify` passes the time in.
        options: Any = {"require": list(_REQUIRED), "verify_exp": False, "verify_iat": False}
        return jwt.decode(token, self._secret, [_ALGORITHM], options=options)


def _time(claim: object) -> float:
    """Return a claim that is a time. Raises: ValueError or OverflowError if it is not a finite number."""
    if isinstance(claim, bool) or not isinstance(claim, int | float) or not math.isfinite(claim):
        raise ValueError("not a time")
    return float(claim)


class Verdict(NamedTuple):
    """The result of verifying a token: `user` if it is valid, otherwise `code`; the other one is None.

    `issued_at` orders the token among the revocations, which are times in seconds since 1970. It is the time of the
    latest revocation before the token was issued, or, for a token of another storage, the time at which it was issued.
    """

    user: str | None
    code: Code | None
    issued_at: float = 0.0


class Answer(NamedTuple):
    """An HTTP response: status code, JSON body, and headers besides those that every response has."""

    status: int
    body: bytes
    headers: dict[str, str]


class Operation(Enum):
    """A valid request for something that only the server itself can answer."""

    READY = "/readyz"
    METRICS = "/metrics"


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


_METHODS = {"/token": "GET", "/revoke": "POST", "/healthz": "GET", "/readyz": "GET", "/metrics": "GET"}


_OPERATIONS = {operation.value for operation in Operation}


def known_path(target: str) -> str:
    """Return the path of the target of a request if it is a path of the server, otherwise "other"."""
    path = target.partition("?")[0]
    return path if path in _METHODS or path == "/" else "other"


def is_loopback_name(host: str) -> bool:
    """Whether a host is this computer only: `localhost`, or an address such as 127.0.0.1 or ::1."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def host_name(header: str) -> str:
    """Return the name or address in the value of a header `Host`. Raises: ValueError if there is none."""
    name = urlsplit(f"//{header}").hostname
    if not name:
        raise ValueError("the header Host has no name")
    return name


class HttpEndpoints:
    """The HTTP endpoints of a server.

    They are `GET /token?user=alice`, `POST /revoke?user=alice`, `GET /healthz`, `GET /readyz` and `GET /metrics`. The
    first two require the server's key in the header `Authorization: Bearer KEY`.

    With the default key, which every web site knows, these two also require that the header `Host` is a loopback name,
    or `host`. After a DNS rebinding, a browser sends requests of another site to this server, with that site's name.
    """

    def __init__(self, key: str, tokens: Tokens) -> None:
        self.host = ""  # the name on which the server listens
        self._key = key.encode()
        self._is_public = key == DEFAULT_KEY
        self._tokens = tokens

    def answer(
        self,
        method: str,
        target: str,
        authorization: str | None,
        health: Mapping[str, object],
        now_wall: float,
        hosts: Sequence[str] = (),
    ) -> Answer | Revocation | Operation | None:
        """Return the response to a request for `target` (a path with its query).

        Return a Revocation if the server must first revoke tokens, and an Operation if the server itself makes the
        response. Return None for `/`, the path of the WebSocket.
        `authorization` is the header of that name; `health` is the content of /healthz; `hosts` are the headers `Host`.
        """
        try:
            url = urlsplit(target)
        except ValueError as error:
            return _error(400, f"the target of the request is not a URL: {error}")
        if url.path == "/":
            return None
        if url.path not in _METHODS:
            known = "/ (the WebSocket), /token?user=NAME, /revoke?user=NAME, /healthz, /readyz, /metrics"
            return _error(404, f"unknown path; the server has {known}")
        if method != _METHODS[url.path]:
            allowed = _METHODS[url.path]
            answer = _error(405, f"{url.path}: the method must be {allowed} (got {method})")
            return answer._replace(headers={"Allow": allowed})
        if url.path == "/healthz":
            return _json(200, {"status": "ok", **health})
        if url.path in _OPERATIONS:
            return Operation(url.path)
        users = parse_qs(url.query, keep_blank_values=True).get("user", [""])
        return self._with_key(url.path, users, authorization or "", hosts, now_wall)

    def _with_key(
        self, path: str, users: list[str], authorization: str, hosts: Sequence[str], now_wall: float
    ) -> Answer | Revocation:
        scheme, _, key = authorization.partition(" ")
        # HTTP libraries decode header values as Latin-1; this restores the bytes.
        given = key.strip().encode("latin-1", "replace")
        if scheme.lower() != "bearer" or not hmac.compare_digest(given, self._key):
            answer = _error(401, "wrong key; send the header 'Authorization: Bearer KEY' with the key of the server")
            return answer._replace(headers={"WWW-Authenticate": "Bearer"})
        if self._is_public and not all(map(self._is_own, hosts)):
            return _error(403, "with the default key, Host must be a loopback name or address; set a key of your own")
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

    def _is_own(self, header: str) -> bool:
        try:
            name = host_name(header)
        except ValueError:
            return False
        return is_loopback_name(name) or name == self.host.lower()


def _json(status: int, value: dict[str, object]) -> Answer:
    return Answer(status, json.dumps(value).encode(), {})


def _error(status: int, text: str) -> Answer:
    return _json(status, {"error": text})
