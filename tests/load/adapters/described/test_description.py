"""Descriptions: the features that follow from them, and one line for each mistake."""

from __future__ import annotations

import pytest

from imsim.core.exceptions import UsageError
from imsim.load.adapters import Feature
from imsim.load.adapters.described.compiler import compiled
from imsim.load.adapters.described.description import parse, read

LEAST = """
send.p2p = { to = "{to}", id = "{id}" }
delivered.id = "id"
"""


def errors(text: str) -> list[str]:
    with pytest.raises(UsageError) as found:
        compiled(parse(text, "chat.toml"), "chat.toml")
    return str(found.value).splitlines()


def test_features_follow_from_tables():
    assert parse(LEAST, "x").offered == frozenset()
    more = (
        LEAST
        + """
features = ["own devices", "resume", "membership"]
send.group = {}
send.chatroom = {}
acked.id = "id"
read = { send = {}, answer.in_order = true }
"""
    )
    assert parse(more, "x").offered == frozenset(Feature) - {Feature.TYPES, Feature.ACTIONS}


def test_template_can_be_json_text():
    described = parse(LEAST + """login.send = '{"a": ["{user}", null]}'\n""", "x")
    assert described.login[0].send == {"a": ["{user}", None]}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", "send: missing"),
        ("send.p2p = {}", "delivered: missing"),
        ("send = {}\ndelivered.id = 'a'", "send.p2p: expected at least one of 'p2p', 'group' and 'chatroom'"),
        (LEAST + "delivered.when = 1", "delivered.when: expected a table, got 1"),
        (LEAST + "[deliverd]", "deliverd: unknown field (did you mean 'delivered'?); known here: connect, "),
        (LEAST + "acked = { id = 'a', wen = {} }", "acked.wen: unknown field (did you mean 'when'?)"),
        (LEAST + "acked = [{ id = 'a' }, { id = 'a..b' }]", "acked.1.id: expected a path such as"),
        (LEAST + "acked = {}", "acked.id: expected one of 'id', 'n' and 'in_order = true'"),
        (LEAST + "acked = { id = 'a', in_order = true }", "acked.id: expected one of"),
        (LEAST + "acked.n = 'n'", "send.p2p: needs {n}, because an answer is recognized by 'n'"),
        (LEAST + "login.send = 'hello {user}'", "login.send: expected JSON, got 'hello {user}' ("),
        (LEAST + "login.send = '7'", "login.send: expected a JSON object or list, got 7"),
        (LEAST + "login.send = { t = 1979-05-27 }", "login.send: expected JSON, got datetime.date"),
        (LEAST + "login = {}", "login: expected 'send', 'answer' or both"),
        (LEAST + "login = [{send = {}}, {send = {a = '{id}'}}]", "login.1.send: unknown placeholder {id}"),
        (LEAST + "login.answer.keep = { user = 'a' }", "login.answer.keep.user: the name of another placehol"),
        (LEAST + "login.answer.keep = { 'a b' = 'a' }", "login.answer.keep.a b: a placeholder has letters,"),
        (LEAST + "closed.when = { a = {is = 1} }", "closed.when.a: expected a value, a list of values, {not ="),
        (LEAST + "closed.when = { a = {exists = 1} }", "closed.when.a.exists: expected true or false, got 1"),
        (LEAST + "closed.when = { a = [1979-05-27] }", "closed.when.a: expected a text, a number, true or fal"),
        (LEAST + "closed.when = { 'a..b' = 1 }", "closed.when: expected a path such as"),
        (LEAST + "closed.when = { a = '{usr}' }", "closed.when.a: unknown placeholder {usr}"),
        (LEAST + "delivered.where = { a = 1 }", "delivered.where: needs 'each'"),
        (LEAST + "delivered.scene = 'room'", "delivered.scene: expected 'p2p', 'group' or 'chatroom', got 'r"),
        (LEAST + "delivered.scene = 'group'", "delivered.to: missing; 'scene = \"group\"' needs the path"),
        (LEAST + "delivered.to = 'a'", "delivered.scene: missing; 'to' needs it"),
        (LEAST + "delivered.last = { x = 'a' }", "delivered.last.x: needs a first value in 'initial'"),
        (LEAST + "reply.send = { a = '{frame.a..b}' }", "reply.send: expected a path"),
        (LEAST + "reply.send = { a = '{fram.a}' }", "reply.send: unknown placeholder {fram.a}"),
        (LEAST + "read = { send = {}, answer.n = 'n' }", "read.answer.n: needs {n} in 'read.send'"),
        (LEAST + "read = { send = {}, answer = [] }", "read.answer: "),
        (LEAST + "join.group = { create = {}, request.url = '/' }", "join.group.request: expected 'request' o"),
        (LEAST + "join.group.request = { url = '/', keep = { a = 'a' } }", "join.group.request.keep: only answers "),
        (LEAST + "join.group.request = { url = '/{time}' }", "join.group.request.url: unknown placeholder {time}"),
        (LEAST + "delivered.keep = { id = 'a' }", "delivered.keep.id: the name of another placeholder"),
        (LEAST + "join.group.entered = {}", "join.group.entered: needs 'enter'"),
        (LEAST + "join.group = {enter={}, entered.n='n'}", "join.group.enter: needs {n}"),
        (LEAST + "connect.url = '{url}/{usr}'", "connect.url: unknown placeholder {usr}"),
        (LEAST + "connect.headers = { A = '{token}' }", "connect.headers.A: unknown placeholder {token}"),
        (LEAST + "connect.request = { url = '/', body = ['{x}'] }", "connect.request.body: unknown placehol"),
        (LEAST + "connect.frames = 'two'", "connect.frames: expected 'one' or 'lines', got 'two'"),
        (LEAST + "keepalive.every = 'often'", "keepalive.every: expected a duration"),
        (LEAST + "features = ['ack']", "features.0: expected 'own devices', 'resume' or 'membership', got 'ack'"),
        ("send = ", "not valid TOML: Invalid value (at "),
    ],
)  # fmt: skip
def test_mistake_is_one_line_with_file_and_field(text, error):
    found = errors(text)
    assert [line for line in found if line.startswith(f"chat.toml: {error}")], found
    assert all(line.startswith("chat.toml: ") for line in found)


def test_all_wrong_fields_are_reported():
    assert len(errors(LEAST + "acked = [{}, {id = ''}]\nkeepalive.evry = 1")) == 3


@pytest.mark.parametrize(
    ("name", "error"),
    [
        ("missing.toml", "option file: there is no file "),
        ("folder", "cannot be read: "),
        ("binary.toml", "not a TOML file: it is not UTF-8 text"),
        ("nul\0.toml", "cannot be read: "),
    ],
)
def test_unreadable_file_is_an_error(tmp_path, name, error):
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError) as found:
        read(str(tmp_path / name))
    assert error in str(found.value)
