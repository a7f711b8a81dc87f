"""The README is executed: its Python, commands, scenario and frames, and its protocol as a stranger reads it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import jsonschema
import matplotlib
import pytest
from websockets.sync.client import connect

import imsim
from imsim import wire
from imsim.core.attachments import ATTACHMENTS
from imsim.core.model import Code
from imsim.scenario import Scenario

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [text for fence, text in fenced if fence == language]


FRAMES = [line for block in blocks("") for line in block.splitlines() if re.match(r"[CS] \{", line)]
COMMANDS = [line.split("#")[0].strip() for block in blocks("sh") for line in block.splitlines()]


@pytest.fixture(scope="module")
def server():
    with imsim.serve("office") as running:
        yield running


def test_the_python_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    matplotlib.use("agg")
    names: dict[str, object] = {}
    for block in blocks("python"):
        exec(compile(block, "README.md", "exec"), names)
    matplotlib.pyplot.close("all")
    assert names["live"].path.parent == Path("results")


def test_the_scenario_is_one(tmp_path):
    (text,) = blocks("toml")
    file = tmp_path / "readme.toml"
    file.write_text(text)
    assert len(imsim.simulate(Scenario.load(file, {"duration": 6.0})).messages)


def test_all_commands_are_tried():
    assert {line.split()[0] for line in COMMANDS} == {"pip", "imsim", "curl", "locust"}


@pytest.mark.parametrize(
    "line", [line for line in COMMANDS if line.startswith(("imsim simulate", "imsim load", "imsim chaos"))]
)
def test_the_commands_run(line, server, tmp_path):
    arguments = shlex.split(line.replace("ws://127.0.0.1:8765", server.url).replace("--duration 10", "--duration 2"))
    result = subprocess.run(
        [sys.executable, "-m", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=100
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("imsim serve")])
def test_the_server_command_serves(line, tmp_path):
    arguments = shlex.split(line.replace("8765", "0"))
    command = [sys.executable, "-u", "-m", *arguments]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as process:
        assert any(line.startswith("listening on ws://") for line in process.stdout)
        process.terminate()
    assert process.returncode == 0


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("locust")])
def test_the_locust_command_runs(line, server, tmp_path):
    arguments = shlex.split(line.replace("ws://127.0.0.1:8765", server.url))
    arguments[arguments.index("-f") + 1] = str(ROOT / arguments[arguments.index("-f") + 1])
    result = subprocess.run(
        [sys.executable, "-m", *arguments, "--headless", "-u", "6", "-t", "3s"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stderr
    assert list((tmp_path / "results").glob("*-live-office-*"))


@pytest.mark.parametrize("line", FRAMES, ids=lambda line: json.loads(line[2:])["op"])
def test_the_frames_are_frames(line):
    decode = wire.decode_from_client if line[0] == "C" else wire.decode_from_server
    frame = decode(line[2:])
    assert json.loads(wire.encode(frame)) == json.loads(line[2:])


@pytest.mark.parametrize("line", FRAMES, ids=lambda line: json.loads(line[2:])["op"])
def test_the_frames_are_what_the_schema_says(line):
    schema = imsim.schema()
    direction = "FromClient" if line[0] == "C" else "ToClient"
    jsonschema.validate(json.loads(line[2:]), {"$ref": f"#/$defs/{direction}", "$defs": schema["$defs"]})
    jsonschema.validate(json.loads(line[2:]), schema)


def test_every_frame_has_its_example():
    from imsim.core.frames import GATEWAY_OPS

    assert {json.loads(line[2:])["op"] for line in FRAMES} == GATEWAY_OPS


def test_every_code_is_explained():
    table = README[README.index("| code | in |") : README.index("Names of users")].strip()
    # `timeout` is a client's own word for a send that nobody answered.
    assert set(re.findall(r"`([a-z_]+)`", table)) == {str(code) for code in Code} - {"timeout"}
    for line in table.splitlines()[2:]:
        codes, where, reconnect, _ = (cell.strip() for cell in line.strip("|").split("|"))
        if where == "refused":
            assert {Code(code).reconnects for code in re.findall(r"\w+", codes)} == {reconnect == "yes"}
        elif where == "rejected" and "again" in line:
            assert all(Code(code).retryable for code in re.findall(r"\w+", codes))


def test_every_type_of_message_is_explained_with_its_attachment():
    table = README[README.index("| type | `file` has |") :].split("\n\n")[0]
    explained = {}
    for line in table.splitlines()[2:]:
        types, has = line.strip("|").split("|")
        fields = set(re.findall(r"`(\w+)`", has))
        explained |= dict.fromkeys(re.findall(r"`(\w+)`", types), fields)
    assert set(explained) == set(ATTACHMENTS)
    for type, fields in ATTACHMENTS.items():
        assert set(fields) <= explained[type]
        assert bool(fields) == (not explained[type] <= {"content", "custom"})


def test_a_client_written_from_the_readme_alone_talks_to_the_server(server):
    """JSON text on a WebSocket, and nothing of imsim's."""
    (curl,) = (shlex.split(line) for line in COMMANDS if line.startswith("curl"))

    @contextmanager
    def log_in(user):
        url = curl[-1].replace("http://127.0.0.1:8765", server.url.replace("ws", "http")).replace("alice", user)
        request = urllib.request.Request(url, headers=dict([curl[curl.index("-H") + 1].split(": ")]))
        with urllib.request.urlopen(request) as answer:
            token = json.load(answer)["token"]
        with connect(server.url) as socket:
            tell(socket, op="login", token=token, device="phone")
            assert hear(socket, "logged_in")["user"] == user
            tell(socket, op="sync", cursors={})
            assert hear(socket, "sync_done")["messages"] == []
            yield socket

    def tell(socket, **frame):
        socket.send(json.dumps(frame))

    def hear(socket, op):
        frame = json.loads(socket.recv(timeout=10))
        assert frame["op"] == op, frame
        return frame

    with log_in("alice") as alice, log_in("bob") as bob:
        tell(alice, op="send", idClient="a-1", scene="p2p", to="bob", content="hi", shown=0)
        stored = hear(alice, "stored")
        assert (stored["idClient"], stored["seq"], stored["conversationId"]) == ("a-1", 1, "p2p:alice:bob")
        message = hear(bob, "push")["message"]
        assert (message["from"], message["content"], message["seq"]) == ("alice", "hi", 1)
        tell(bob, op="delivered", conversationId="p2p:alice:bob", seq=1)
        tell(bob, op="read", conversationId="p2p:alice:bob", seq=1)
        place = hear(bob, "placed")["place"]
        assert place == {"conversationId": "p2p:alice:bob", "version": 1, "readSeq": 1, "unread": 0}
        tell(bob, op="noted", conversationId="p2p:alice:bob", version=1)
        assert hear(bob, "done") == {"op": "done", "request": "read", "ref": "p2p:alice:bob"}
        place = hear(alice, "placed")["place"]
        assert (place["version"], place["peerReadSeq"]) == (1, 1)
        tell(alice, op="noted", conversationId="p2p:alice:bob", version=1)
        tell(alice, op="send", idClient="a-1", scene="p2p", to="bob", content="hi", shown=0, resend=True)
        assert hear(alice, "stored") == stored
        tell(alice, op="create_group", name="team", members=["bob"])
        hear(alice, "group_created")
        tell(bob, op="send", idClient="b-1", scene="group", to="team", content="all?")
        assert hear(bob, "stored")["conversationId"] == "group:team"
        assert hear(alice, "push")["message"]["to"] == "team"
        tell(alice, op="read_count", conversationId="group:team", seq=1)
        counted = hear(alice, "read_counted")
        assert (counted["read"], counted["members"]) == (0, 1)
        tell(alice, op="set_conversation", conversationId="group:team", pinned=True, hiddenSeq=1, number=7)
        place = hear(alice, "placed")["place"]
        assert (place["pinned"], place["hiddenSeq"], place["readSeq"]) == (True, 1, 1)
        tell(alice, op="noted", conversationId="group:team", version=place["version"])
        assert hear(alice, "done")["number"] == 7
        tell(alice, op="history", conversationId="p2p:alice:bob", first=1, last=9)
        page = hear(alice, "history_page")
        assert [message["content"] for message in page["messages"]] == ["hi"]
        tell(alice, op="ping")
        hear(alice, "pong")
        tell(alice, op="nonsense")
        refused = hear(alice, "refused")
        assert (refused["code"], refused["reconnect"]) == ("bad_frame", False)
