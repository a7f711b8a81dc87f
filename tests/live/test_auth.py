"""Tests of tokens, and of the HTTP endpoints that issue and revoke them."""

from __future__ import annotations

import asyncio
import http.client
import json
from importlib.metadata import version

import jwt
import pytest

from imsim.core import events, storage
from imsim.core.exceptions import BadName, RunError, UsageError
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.live import Device, MemoryStore, Server, SqliteStore, Tokens
from imsim.live.auth import HttpEndpoints, is_loopback_name


def test_token_is_valid_for_its_user_until_it_expires():
    tokens = Tokens("secret", 60.0)
    token, expires_at = tokens.issue("alice", 1000.0)
    assert expires_at == 1060.0
    assert tokens.verify(token, 1059.9)[:2] == ("alice", None)
    assert tokens.verify(token, 1060.0)[:2] == (None, Code.TOKEN_EXPIRED)


def test_tokens_survive_a_restart_only_with_the_same_secret():
    token, _ = Tokens("secret", 60.0).issue("alice", 1000.0)
    assert Tokens("secret", 5.0).verify(token, 1000.0)[:2] == ("alice", None)
    assert Tokens("Secret", 60.0).verify(token, 1000.0)[:2] == (None, Code.BAD_TOKEN)


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "ü.ü.ü", "\x00"])
def test_verify_refuses_garbage_as_a_bad_token(token):
    assert Tokens("secret", 60.0).verify(token, 0.0)[:2] == (None, Code.BAD_TOKEN)


@pytest.mark.parametrize(
    "claims",
    [{"sub": "alice"}, {"exp": 9.0}, {"sub": "a b", "exp": 9.0}, {"sub": 7, "exp": 9.0}, {"sub": "a", "exp": "soon"}],
)
def test_verify_refuses_a_signed_token_with_invalid_claims(claims):
    tokens = Tokens("secret", 60.0)
    assert tokens.verify(jwt.encode(claims, tokens._secret, "HS256"), 0.0)[:2] == (None, Code.BAD_TOKEN)


@pytest.mark.parametrize("more", [{}, {"jti": "1"}])
@pytest.mark.parametrize("header", [{}, {"kid": "1"}])
def test_verify_accepts_tokens_of_another_issuer_with_the_same_key(header, more):
    tokens = Tokens("secret", 60.0)
    claims = {"sub": "alice", "iat": 5, "exp": 9.0, **more}
    token = jwt.encode(claims, tokens._secret, "HS256", header)
    assert tokens.verify(token, 8.0) == ("alice", None, 5.0)
    assert tokens.verify(token, 9.0)[:2] == (None, Code.TOKEN_EXPIRED)


@pytest.mark.parametrize("claims", [{"aud": "other"}, {"nbf": 1e12}])
def test_verify_refuses_a_token_with_a_claim_that_does_not_hold(claims):
    tokens = Tokens("secret", 60.0)
    token = jwt.encode({"sub": "alice", "iat": 5, "exp": 9.0, **claims}, tokens._secret, "HS256")
    assert tokens.verify(token, 8.0)[:2] == (None, Code.BAD_TOKEN)


def test_verify_refuses_a_changed_token():
    tokens = Tokens("secret", 60.0)
    token, _ = tokens.issue("alice", 1000.0)
    other, _ = tokens.issue("bob", 1000.0)
    for at in range(0, len(token), 7):
        changed = token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :]
        assert tokens.verify(changed, 1000.0)[:2] == (None, Code.BAD_TOKEN)
    mixed = f"{other.rpartition('.')[0]}.{token.rpartition('.')[2]}"
    assert tokens.verify(mixed, 1000.0)[:2] == (None, Code.BAD_TOKEN)


def test_verify_refuses_an_unsigned_token():
    unsigned = jwt.encode({"sub": "alice", "exp": 9.0}, "", "none")
    assert Tokens("secret", 60.0).verify(unsigned, 0.0)[:2] == (None, Code.BAD_TOKEN)


def test_tokens_refuse_invalid_names_and_empty_secrets():
    with pytest.raises(BadName, match="user"):
        Tokens("secret", 60.0).issue("a b", 0.0)
    with pytest.raises(UsageError, match="key"):
        Tokens("", 60.0)


STEPS = [0.0, 1e-9, 1.0, -1e-9, -3600.0]


@pytest.mark.parametrize("before", STEPS)
@pytest.mark.parametrize("after", STEPS)
def test_revocation_covers_tokens_issued_before_it_and_no_others_whatever_the_clock_does(before, after):
    """The clock steps between a token, the revocation and the next token: back, forward, or not at all."""
    tokens, now = Tokens("secret", 1e6, MemoryStore()), 1e9
    old, _ = tokens.issue("alice", now)
    revoked = [tokens.revocation(now := now + before)]
    new, _ = tokens.issue("alice", now := now + after)
    assert tokens.verify(old, now).issued_at < revoked[0] <= tokens.verify(new, now).issued_at
    revoked.append(tokens.revocation(now + before))
    newer, _ = tokens.issue("alice", now)
    assert revoked[0] <= tokens.verify(new, now).issued_at < revoked[1] <= tokens.verify(newer, now).issued_at


def test_token_of_another_server_is_compared_by_its_time():
    """It has the same key and another storage, whose revocations are unknown. Or it has no such claims at all."""
    ours, theirs, backend = (Tokens("secret", 1e6, *store) for store in ([MemoryStore()], [MemoryStore()], []))
    theirs.revocation(5e9)
    for issuer in (theirs, backend):
        assert ours.verify(issuer.issue("alice", 1e9)[0], 1e9) == ("alice", None, 1e9)
    claims = {"sub": "alice", "iat": 1e9, "exp": 2e9, "log": ours._revocations.log, "rev": "soon"}
    assert ours.verify(jwt.encode(claims, ours._secret, "HS256"), 1e9).code == Code.BAD_TOKEN


@pytest.mark.parametrize("steps", [(-3600.0, 0.0), (0.0, -3600.0), (-3600.0, -3600.0), (0.0, 0.0)])
@pytest.mark.parametrize("in_file", [False, True])
async def test_new_token_works_and_old_one_is_revoked_when_the_clock_is_set_back(world, tmp_path, steps, in_file):
    """Also after a restart, and for users whose revocation is the only one that the new server finds."""
    before, after = steps
    path = tmp_path / "db.sqlite"
    async with world(store=SqliteStore(path) if in_file else MemoryStore()) as w:
        alice, old, bobs = await w.online("alice"), w.token("alice"), w.token("bob")
        w.wall.now += before
        assert await w.server.revoke("alice")
        await w.run_until_idle()
        assert alice.state == "ended"
        w.wall.now += after
        for restart in (False, True):
            if restart:
                await w.restart((lambda: SqliteStore(path)) if in_file else None)
            new = w.client("alice", "phone", token=w.token("alice"))
            await new.start()
            with pytest.raises(RunError, match="token_revoked"):
                await w.client("alice", "tablet", token=old).start()
            await w.client("bob", token=bobs).start()
        assert await w.server.revoke("alice")
        await w.run_until_idle()
        assert new.state == "ended"
        await w.client("alice", "phone").start()


async def test_token_of_a_backend_from_before_a_revocation_is_refused(world, key):
    """A program with the key signs tokens itself. A revocation can only be compared with their time."""
    async with world() as w:
        backend = Tokens(key, 1e6)
        assert await w.server.revoke("alice")
        revoked = w.wall.now + w.clock.now
        for issued_at, works in ((revoked - 0.001, False), (revoked, True)):
            client = w.client("alice", token=backend.issue("alice", issued_at)[0])
            if works:
                await client.start()
            else:
                with pytest.raises(RunError, match="token_revoked"):
                    await client.start()


class Stalled(MemoryStore):
    """A store that can delay the requests to revoke tokens, or answer them with Failed."""

    def __init__(self) -> None:
        super().__init__()
        self.stalled = self.failing = False
        self.held: list = []
        self.holds = asyncio.Event()

    def submit(self, request) -> None:
        if isinstance(request, storage.RevokeTokens) and self.stalled:
            self.held.append(request)
            self.holds.set()
        elif isinstance(request, storage.RevokeTokens) and self.failing:
            asyncio.get_running_loop().call_soon(self._deliver, [(request, storage.Failed("for a test"))])
        else:
            super().submit(request)

    def resume(self) -> None:
        self.stalled = False
        for request in self.held:
            self.submit(request)


def get(port: int, path: str, method: str = "GET", **headers: str) -> tuple[int, dict]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        return response.status, json.loads(body) if response.headers["Content-Type"] == "application/json" else {}
    finally:
        connection.close()


async def test_token_endpoint_issues_tokens_and_refuses_invalid_requests(world, key):
    async with world() as w:
        right = {"Authorization": f"Bearer {key}"}
        status, body = await asyncio.to_thread(get, w.server.port, "/token?user=alice", **right)
        assert (status, body["user"], body["expiresAt"]) == (200, "alice", 1_700_086_400_000)
        client = w.client("alice", token=body["token"])
        await client.start()

        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {key}"}):
            status, body = await asyncio.to_thread(get, w.server.port, "/token?user=alice", **headers)
            assert (status, list(body)) == (401, ["error"])
        for path in (
            "/token",
            "/token?user=",
            "/token?user=a%20b",
            "/token?user=alice&user=bob",
            "/token?user=&user=bob",
        ):
            status, body = await asyncio.to_thread(get, w.server.port, path, **right)
            assert status == 400
            assert "user" in body["error"]


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "[::1]", "localhost"])
def test_loopback_addresses(host):
    assert is_loopback_name(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "localhost.example", "example.com", "128.0.0.1"])
def test_addresses_that_are_not_loopback(host):
    assert not is_loopback_name(host)


def token_status(hosts, key="imsim", method="GET", path="/token") -> int:
    endpoints = HttpEndpoints(key, Tokens(key, 60.0))
    endpoints.host = "Debian"  # a name of this computer that /etc/hosts maps to 127.0.1.1
    answer = endpoints.answer(method, f"{path}?user=al", f"Bearer {key}", {}, 0.0, hosts)
    return getattr(answer, "status", 200)  # a Revocation is accepted, too


@pytest.mark.parametrize("hosts", [[], ["localhost:8765"], ["127.0.0.1"], ["[::1]:8765"], ["debian:8765"]])
def test_default_key_is_accepted_for_loopback_names(hosts):
    assert token_status(hosts) == token_status(hosts, method="POST", path="/revoke") == 200


@pytest.mark.parametrize("hosts", [["evil.example:8765"], ["10.0.0.1"], [""], ["["], ["localhost", "evil.example"]])
def test_default_key_is_refused_after_a_dns_rebinding(hosts):
    assert token_status(hosts) == token_status(hosts, method="POST", path="/revoke") == 403
    assert token_status(hosts, key="a key of one's own") == 200  # no other site knows it


async def test_server_passes_the_host_to_its_endpoints(world, key, monkeypatch):
    right = {"Authorization": f"Bearer {key}", "Host": "evil.example"}
    async with world() as w:
        monkeypatch.setattr(w.server._endpoints, "_is_public", True)
        status, body = await asyncio.to_thread(get, w.server.port, "/token?user=alice", **right)
        assert (status, list(body)) == (403, ["error"])


async def test_revoke_endpoint_answers_after_storage_has_confirmed(world, key):
    right = {"Authorization": f"Bearer {key}"}
    async with world(store=Stalled()) as w:
        alice = await w.online("alice")
        token = w.token("alice")
        w.wall.now += 1.0
        w.store.stalled = True
        answer = asyncio.create_task(asyncio.to_thread(get, w.server.port, "/revoke?user=alice", "POST", **right))
        await w.store.holds.wait()
        await w.run_until_idle()
        assert alice.state == "ended"
        assert not answer.done()
        w.store.resume()
        assert await answer == (200, {"revoked": "alice"})
        await w.restart()
        with pytest.raises(RunError, match="token_revoked"):
            await w.client("alice", token=token).start()


async def test_revoke_endpoint_answers_503_if_storage_fails(world, key):
    right = {"Authorization": f"Bearer {key}"}
    async with world(store=Stalled()) as w:
        alice = await w.online("alice")
        w.store.failing = True
        status, body = await asyncio.to_thread(get, w.server.port, "/revoke?user=alice", "POST", **right)
        assert (status, list(body)) == (503, ["error"])
        await w.run_until_idle()
        assert alice.state == "ended"
        assert w.server._revoking == {}


async def test_revoke_endpoint_answers_503_if_storage_does_not_answer(world, key):
    right = {"Authorization": f"Bearer {key}"}
    async with world(Policies(storage_timeout=0.05), Stalled()) as w:
        w.store.stalled = True
        status, body = await asyncio.to_thread(get, w.server.port, "/revoke?user=alice", "POST", **right)
        assert (status, list(body)) == (503, ["error"])
        w.store.resume()


async def test_revoke_endpoint_requires_post_and_the_key(world, key):
    right = {"Authorization": f"Bearer {key}"}
    async with world() as w:
        alice = await w.online("alice")
        for method, headers, status in (("GET", right, 405), ("POST", {}, 401)):
            assert (await asyncio.to_thread(get, w.server.port, "/revoke?user=alice", method, **headers))[0] == status
        assert (await asyncio.to_thread(get, w.server.port, "/revoke?user=", "POST", **right))[0] == 400
        await w.run_until_idle()
        assert alice.state == "online"


async def test_other_paths_have_their_own_answers(world):
    async with world() as w:
        await w.online("alice")
        port = w.server.port
        health = {"status": "ok", "version": version("imsim"), "connections": 1, "shed": 0}
        assert await asyncio.to_thread(get, port, "/healthz") == (200, health)
        assert (await asyncio.to_thread(get, port, "/elsewhere"))[0] == 404
        assert (await asyncio.to_thread(get, port, "/"))[0] == 426  # upgrade required
        assert (await asyncio.to_thread(get, port, "/token", "POST"))[0] >= 400


async def test_client_with_the_key_requests_a_new_token_when_its_token_expires(world, key):
    async with world() as w:
        client = w.client("alice", key=key)
        await client.start()
        client.break_connection()
        w.wall.now += 1e6  # the first token expires
        await w.advance(1.0)
        assert client.state == "online"


async def test_client_with_a_wrong_key_is_refused_and_does_not_reconnect(world):
    async with world() as w:
        client = w.client("alice", key="wrong")
        with pytest.raises(RunError, match=r"refused alice: bad_token: wrong key"):
            await client.start()
        await w.advance(100.0)
        assert client.state == "ended"
        assert not client.connecting


@pytest.mark.parametrize(("late", "code"), [(0.0, Code.BAD_TOKEN), (1e6, Code.TOKEN_EXPIRED)])
async def test_refused_token_ends_the_client_with_a_code(world, late, code):
    async with world() as w:
        client = w.client("alice", token=w.token("alice") if late else "forged")
        w.wall.now += late
        with pytest.raises(RunError, match=code):
            await client.start()
        ended = [event for event in client.seen if isinstance(event, events.Ended)]
        assert [event.code for event in ended] == [code]
        await w.advance(100.0)
        assert client.state == "ended"


async def test_deadlines_fire_by_themselves_with_the_default_clocks(key):
    policies = Policies(heartbeat=0.05, heartbeat_timeout=0.2)
    store = MemoryStore()
    server = Server(policies, store, key=key)
    await server.start()
    pongs = asyncio.Queue()
    client = Device(server.url, "alice", key=key, policies=policies)
    client.lose = lambda frame: frame.op == "pong" and (pongs.put_nowait(frame) or False)
    client.start()
    await pongs.get()
    await pongs.get()
    await client.stop()
    await server.stop()
