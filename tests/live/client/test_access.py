"""The access of a client: which token it uses, and when it requests a new one."""

from __future__ import annotations

import jwt
import pytest

from imsim.core.model import Code
from imsim.live.client.access import Access, TokenSourceFailed, _expiry

NO_URI = None


def with_source(*tokens: object, wall: float = 0.0) -> tuple[Access, list]:
    left = list(tokens)

    async def source():
        return left.pop(0)

    return Access("alice", None, None, source, lambda: wall), left


def expiring(at: float) -> str:
    return jwt.encode({"sub": "alice", "exp": at}, "a key of at least 32 bytes for HS256", "HS256")


@pytest.mark.parametrize("token", ["", "x", "a.b.c", "a.e30.c", "a.eyJleHAiOiAieCJ9.c", "..", "a.W10.c"])
def test_expiry_of_an_opaque_token_is_unknown(token):
    assert _expiry(token) == float("inf")


def test_expiry_is_that_of_the_token():
    assert _expiry(expiring(1234)) == 1234


async def test_token_is_used_until_shortly_before_its_expiry():
    first, second = expiring(100), expiring(1e6)
    access, _ = with_source(first, second)
    now = [0.0]
    access._wall = lambda: now[0]
    assert await access.token(NO_URI, None) == first
    now[0] = 69.0
    assert await access.token(NO_URI, None) == first
    now[0] = 70.0
    assert await access.token(NO_URI, None) == second


async def test_refused_token_is_replaced_unless_it_was_new():
    access, _ = with_source("one", "two", "three", "four")
    assert await access.token(NO_URI, None) == "one"
    assert not access.refused(Code.BAD_TOKEN)  # another one would be refused, too
    assert await access.token(NO_URI, None) == "two"
    access.used()
    assert access.refused(Code.BAD_TOKEN)
    assert await access.token(NO_URI, None) == "three"
    assert access.refused(Code.TOKEN_EXPIRED)
    assert await access.token(NO_URI, None) == "four"
    assert not access.refused(Code.TOKEN_REVOKED)
    assert not access.refused(Code.KICKED)


async def test_given_token_is_never_replaced():
    access = Access("alice", expiring(0), None, None)
    assert await access.token(NO_URI, None) == await access.token(NO_URI, None)
    assert not access.refused(Code.TOKEN_EXPIRED)


@pytest.mark.parametrize("value", [None, "", 7, b"token"])
async def test_value_that_is_not_a_token_is_refused(value):
    access, _ = with_source(value)
    with pytest.raises(TokenSourceFailed, match="token_source: must return a token"):
        await access.token(NO_URI, None)


async def test_function_may_return_the_token_without_await():
    access = Access("alice", None, None, lambda: "a token")
    assert await access.token(NO_URI, None) == "a token"
