"""PROTOCOL.md is played against a server, and says all that there is to say."""

from __future__ import annotations

import json
import re

import jsonschema
import pytest
from protocol_script import DOCUMENT, blocks, play

import imsim
from imsim import wire
from imsim.core import changes
from imsim.core.attachments import ATTACHMENTS
from imsim.core.changes import SILENT
from imsim.core.frames import GATEWAY_OPS
from imsim.core.gateway.connection import READS
from imsim.core.model import Code
from imsim.core.policies import Policies
from imsim.core.router.rules import friends, groups
from imsim.core.sizes import largest_from_client, largest_to_client

TEXT = DOCUMENT.read_text()

#: (sent by the client, frame) of everything in it that is a frame, played or not.
FRAMES = [(" -> " in line, line.split(" ", 2)[2]) for _, lines in blocks(TEXT) for line in lines] + [
    (line[0] == "C", line[2:]) for line in TEXT.splitlines() if re.match(r"[CS] \{", line)
]


@pytest.fixture(scope="module")
def validators():
    """By direction; one that is made anew for each frame checks the whole schema first."""
    defs = imsim.schema()["$defs"]
    return {
        name: jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": defs})
        for name in ("FromClient", "ToClient")
    }


def table(head: str) -> list[list[str]]:
    """The cells of the table whose first cells are these."""
    lines = TEXT[TEXT.index(head) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_every_exchange_goes_as_it_stands_there():
    heard = []
    play(TEXT, lambda line, frame: heard.append((line, frame)))
    assert len(heard) > 100
    for line, frame in heard:
        assert json.loads(line.split(" <- ", 1)[1]) == frame


@pytest.mark.parametrize(("sent", "text"), FRAMES, ids=[json.loads(text)["op"] for _, text in FRAMES])
def test_the_frames_are_frames(sent, text, validators):
    frame = (wire.decode_from_client if sent else wire.decode_from_server)(text)
    assert {**json.loads(text), **json.loads(wire.encode(frame))} == json.loads(text)
    if '"latitude": 91' not in text:  # which is there to be refused
        validators["FromClient" if sent else "ToClient"].validate(json.loads(text))


def test_every_frame_has_its_example():
    assert {json.loads(text)["op"] for _, text in FRAMES} == GATEWAY_OPS


def test_every_code_is_explained():
    rows = table("| code | in |")
    codes = [re.findall(r"`([a-z_]+)`", row[0]) for row in rows]
    assert {code for some in codes for code in some} == {str(code) for code in Code}
    for some, (_, where, reconnect, means) in zip(codes, rows, strict=True):
        if where == "refused":
            assert {Code(code).reconnects for code in some} == {reconnect == "yes"}
        else:
            assert {Code(code).retryable for code in some} == {"again" in means}


def test_every_type_of_message_is_explained_with_its_attachment():
    explained = {}
    for types, has in table("| type | `file` has |"):
        explained |= {type: set(re.findall(r"`(\w+)`", has)) for type in re.findall(r"`(\w+)`", types)}
    assert set(explained) == set(ATTACHMENTS)
    for type, fields in ATTACHMENTS.items():
        assert set(fields) <= explained[type]
        assert bool(fields) == (not explained[type] <= {"content", "custom"})


def test_every_change_is_explained():
    rows = [row[0] for row in table("| event in a group |")]
    told = {event: "silent" in row for row in rows for event in re.findall(r"`(\w+)`", row)}
    assert set(told) == set(groups.EVENTS)
    for event in (*friends.EVENTS, *changes.AMENDMENTS, "resolve"):
        assert f"`{event}`" in TEXT
        assert event in SILENT
    assert {event for event, silent in told.items() if silent} == set(groups.EVENTS) & SILENT


def test_the_largest_frames_are_as_large_as_it_says():
    said = [int(number.replace(",", "")) for number in re.findall(r"([\d,]+) bytes", TEXT[: TEXT.index("## 1.")])]
    assert said == [largest_from_client(Policies()), largest_to_client(Policies())]


def test_the_reads_under_way_are_as_many_as_it_says():
    (row,) = [row for row in table("| limit | by default |") if row[0].startswith("`sync`, `history`")]
    assert row[1] == str(READS)


def test_the_limits_are_as_they_stand_there():
    from imsim.scenario.sections import Limits

    for name, default, _ in table("| limit | by default |"):
        numbers = re.findall(r"\d+", default)
        for field, number in zip(re.findall(r"`limits\.(\w+)`", name), numbers, strict=False):
            assert str(int(Limits.model_fields[field].default)) == number
