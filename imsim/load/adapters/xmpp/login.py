"""The first half of a login: the account (XEP-0077) and its password (SASL PLAIN or SCRAM)."""

from __future__ import annotations

import base64
import hashlib
import hmac
from xml.etree.ElementTree import Element

from imsim.load.adapters.xmpp.stanzas import (
    CLIENT,
    SASL,
    Refusal,
    base64_of,
    condition_of,
    described,
    escaped,
    from_base64,
    node_of,
)

_REGISTER = "{http://jabber.org/features/iq-register}register"
_SASL_NAMESPACE = SASL.strip("{}")

_NO_REGISTRATION = (
    "enable it (Prosody: module register and allow_registration = true; ejabberd: mod_register), or create the "
    "accounts and pass register=off"
)
_THROTTLED = (
    "set `registration_timeout: infinity` in ejabberd.yml, remove registration_throttle_max and "
    "min_seconds_between_registrations from Prosody's configuration, or create the accounts and pass register=off"
)


class Login:
    """The login of one connection, from the first features of the server to the success of SASL.

    nonce: a text that the client uses only once, for SCRAM.
    """

    def __init__(self, user: str, domain: str, password: str, nonce: str) -> None:
        self._node = node_of(user)
        self._domain = domain
        self._password = password
        self._nonce = nonce
        self._mechanisms: list[str] = []
        self._registers = False
        self._scram: _Scram | None = None

    def read(self, features: Element) -> None:
        """Remember the features of the server."""
        self._mechanisms = [mechanism.text or "" for mechanism in features.iter(f"{SASL}mechanism")]
        self._registers = features.find(_REGISTER) is not None

    def register(self) -> str:
        """Return the request to register the account, with the id `register`."""
        if not self._registers:
            raise Refusal(f"the server offers no registration of accounts (XEP-0077): {_NO_REGISTRATION}")
        return (
            "<iq xmlns='jabber:client' type='set' id='register'><query xmlns='jabber:iq:register'>"
            f"<username>{self._node}</username><password>{escaped(self._password)}</password></query></iq>"
        )

    def registered(self, iq: Element) -> None:
        """Check the answer to the registration."""
        if iq.get("type") == "error":
            condition, _ = condition_of(iq)
            error = iq.find(f"{CLIENT}error")
            if error is not None and error.get("type") == "wait":
                raise Refusal(f"the server limits the registration of accounts, {described(iq)}: {_THROTTLED}")
            if condition != "conflict":  # the account exists
                raise Refusal(f"the server refused to register an account, {described(iq)}: {_NO_REGISTRATION}")

    def authenticate(self) -> str:
        """Return the first message of SASL."""
        offered = self._mechanisms
        if "PLAIN" in offered:
            mechanism, first = "PLAIN", f"\0{self._node}\0{self._password}"
        elif "SCRAM-SHA-1" in offered or "SCRAM-SHA-256" in offered:
            mechanism = "SCRAM-SHA-1" if "SCRAM-SHA-1" in offered else "SCRAM-SHA-256"
            self._scram = _Scram(mechanism, self._node, self._password, self._nonce)
            first = self._scram.first
        else:
            raise Refusal(
                f"the server offers the SASL mechanisms {', '.join(offered) or '(none)'}; PLAIN or SCRAM-SHA-1 is "
                "necessary: without TLS, Prosody needs consider_websocket_secure = true"
            )
        return f"<auth xmlns='{_SASL_NAMESPACE}' mechanism='{mechanism}'>{base64_of(first)}</auth>"

    def challenge(self, challenge: Element) -> str:
        """Return the answer to a challenge of the server."""
        if self._scram is None:
            raise Refusal("the server sent a SASL challenge, which the mechanism does not have")
        answer = self._scram.answer(from_base64(challenge.text))
        return f"<response xmlns='{_SASL_NAMESPACE}'>{base64_of(answer)}</response>"

    def success(self, success: Element) -> None:
        """Check the proof of the server, if the mechanism has one."""
        if self._scram is not None and from_base64(success.text) != self._scram.proof:
            raise Refusal("the server did not prove that it knows the password (SCRAM)")

    def failure(self, failure: Element) -> Refusal:
        """Return the reason why the server refused the password."""
        condition, _ = condition_of(failure)
        reason = f"the server refused the login of {self._node}@{self._domain}, {described(failure)}"
        if condition == "not-authorized":
            reason += ": the account may exist with another password; the password is the key of the run"
        return Refusal(reason, passes=condition == "temporary-auth-failure")


class _Scram:
    """The client of SCRAM (RFC 5802), without channel binding. `proof` is the text that the server must send."""

    def __init__(self, mechanism: str, node: str, password: str, nonce: str) -> None:
        self._hash = "sha1" if mechanism == "SCRAM-SHA-1" else "sha256"
        self._password = password.encode()
        self._bare = f"n={node.replace('=', '=3D')},r={nonce}"
        self._nonce = nonce
        self.first = f"n,,{self._bare}"
        self.proof = ""

    def answer(self, challenge: str) -> str:
        fields = dict(field.partition("=")[::2] for field in challenge.split(","))
        nonce, rounds = fields.get("r", ""), fields.get("i", "")
        if not nonce.startswith(self._nonce) or not rounds.isdecimal() or not 0 < int(rounds) <= 1_000_000:
            raise Refusal(f"the server sent an invalid SCRAM challenge: {challenge!r}")
        try:
            salt = base64.b64decode(fields.get("s", ""), validate=True)
        except ValueError:
            raise Refusal(f"the server sent an invalid SCRAM challenge: {challenge!r}") from None
        salted = hashlib.pbkdf2_hmac(self._hash, self._password, salt, int(rounds))
        client_key = self._hmac(salted, "Client Key")
        final = f"c=biws,r={nonce}"
        signed = f"{self._bare},{challenge},{final}"
        signature = self._hmac(hashlib.new(self._hash, client_key).digest(), signed)
        proof = bytes(one ^ other for one, other in zip(client_key, signature, strict=True))
        server = self._hmac(self._hmac(salted, "Server Key"), signed)
        self.proof = f"v={base64.b64encode(server).decode()}"
        return f"{final},p={base64.b64encode(proof).decode()}"

    def _hmac(self, key: bytes, text: str) -> bytes:
        return hmac.digest(key, text.encode(), self._hash)
