"""docs/protocol*.md: every exchange is executed, and every table is compared with the code."""

from __future__ import annotations

import asyncio
import dataclasses
import inspect
import json
import re
from enum import StrEnum
from typing import get_args, get_type_hints

import jsonschema
import pytest
from protocol_script import PAGES, blocks, play, wrapped
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

import imsim
from imsim import wire
from imsim.core import attachments, frames, limits, model
from imsim.core.attachments import ATTACHMENTS, OPTIONAL
from imsim.core.changes import SILENT
from imsim.core.gateway import connection as gateway_connection
from imsim.core.gateway import pushes
from imsim.core.model import Code, ConversationState, Message
from imsim.core.policies import Policies
from imsim.core.router import chatrooms, conversations
from imsim.core.router.rules import amendments, decision, friends, groups
from imsim.core.router.rules.decision import Change, RuleViolation
from imsim.core.sizes import largest_from_client, largest_to_client
from imsim.live import MemoryStore, Server
from imsim.scenario import sections
from imsim.wire.codec import alias

PROTOCOL, REFERENCE = (page.read_text() for page in PAGES)
TEXT = f"{PROTOCOL}\n{REFERENCE}"
FRAME_TYPES = {frame.op: frame for frame in (*get_args(frames.FromClient), *get_args(frames.ToClient))}

#: (sent by the client, frame) of every frame on the pages, executed or not.
FRAMES = [(" -> " in line, line.split(" ", 2)[2]) for _, lines in blocks(TEXT) for line in lines] + [
    (line[0] == "C", line[2:]) for line in TEXT.splitlines() if re.match(r"[CS] \{", line)
]

#: The body below each heading, up to the next heading of any level.
SECTIONS = dict(
    re.findall(r"^#+ (.*?)\n(.*?)(?=^#|\Z)", re.sub(r"^```.*?^```$", "", TEXT, flags=re.S | re.M), re.S | re.M)
)


def table(text: str, head: str) -> list[list[str]]:
    """Return the cells of the first table in the text that starts with `head`."""
    lines = text[text.index(head) :].split("\n\n")[0].splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def names(cell: str) -> list[str]:
    return re.findall(r"`(\w+)`", cell)


def numbers(cell: str) -> list[float]:
    return [
        2**53 - 1 if one == "2^53-1" else float(one) for one in re.findall(r"2\^53-1|-?\d[\d.]*", cell.replace(",", ""))
    ]


# --- exchanges --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_server_answers_like_exchange(page):
    received = []
    play(page.read_text(), lambda line, frame: received.append((line, frame)))
    assert len(received) > 30
    for line, frame in received:
        assert json.loads(line.split(" <- ", 1)[1]) == frame


@pytest.fixture(scope="module")
def validators():
    """Return a validator for each direction. They are created once, because each first checks the whole schema."""
    defs = imsim.schema()["$defs"]
    return {
        name: jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", "$defs": defs})
        for name in ("FromClient", "ToClient")
    }


@pytest.mark.parametrize(("sent", "text"), FRAMES, ids=[json.loads(text)["op"] for _, text in FRAMES])
def test_frame_in_an_exchange_is_valid(sent, text, validators):
    frame = (wire.decode_from_client if sent else wire.decode_from_server)(text)
    assert {**json.loads(text), **json.loads(wire.encode(frame))} == json.loads(text)
    if '"latitude": 91' not in text:  # the example of a frame that the server must reject
        validators["FromClient" if sent else "ToClient"].validate(json.loads(text))


def test_every_frame_has_an_example():
    assert {json.loads(text)["op"] for _, text in FRAMES} == set(FRAME_TYPES)


def test_long_frames_are_wrapped():
    for body in re.findall(r"^```im[^\n]*\n(.*?)^```$", TEXT, re.DOTALL | re.MULTILINE):
        assert body == "".join(f"{wrapped(line)}\n" for line in re.sub(r"\n +", " ", body).splitlines())


# --- frames -----------------------------------------------------------------------------------------------------------

_TYPES = {
    str: "string", int: "integer", float: "number", bool: "boolean", dict[str, int]: "object",
    dict[str, object]: "object", Message: "message", list[Message]: "list of messages",
    ConversationState: "conversation state", list[ConversationState]: "list of conversation states",
    frames.Limits: "object", frames.Windows: "object", frames.GroupSettings: "object",
    list[model.Skipped]: "list of skipped parts", list[list[int]]: "list of ranges",
    list[frames.GroupMember]: "list of members", list[frames.Friend]: "list of friends",
    list[frames.FriendRequest]: "list of friend requests",
}  # fmt: skip


def fields(kind: type) -> list[list[str]]:
    """Return (field, type, default) of each field in the notation of the pages."""
    hints = get_type_hints(kind)
    rows = []
    for field in dataclasses.fields(kind):
        hint = next((part for part in get_args(hints[field.name]) if type(None) in get_args(hints[field.name])), None)
        hint = hint or hints[field.name]
        name = "string" if isinstance(hint, type) and issubclass(hint, StrEnum) else _TYPES[hint]
        if field.default_factory is not dataclasses.MISSING:
            default = f"`{json.dumps(field.default_factory())}`"
        elif field.default is dataclasses.MISSING:
            default = "required"
        elif dataclasses.is_dataclass(field.default):
            default = "`{}`"
        else:
            default = "none" if field.default is None else f"`{json.dumps(field.default).removesuffix('.0')}`"
        rows.append([f"`{alias(field.name)}`", name, default])
    return rows


def heading(op: str) -> str:
    (found,) = [title for title in SECTIONS if f"`{op}` (" in title]
    return found


@pytest.mark.parametrize("op", FRAME_TYPES)
def test_every_field_of_a_frame_is_explained(op):
    kind, body = FRAME_TYPES[op], SECTIONS[heading(op)]
    assert f"`{op}` ({'client' if kind in get_args(frames.FromClient) else 'server'})" in heading(op)
    if "| field | type" in body:
        assert [row[:3] for row in table(body, "| field | type")] == fields(kind)
    else:
        assert all(name in body for name, _, _ in fields(kind))


def test_every_field_of_messages_and_states_is_explained():
    pushed = SECTIONS["`push` (server)"]
    rows = table(pushed[pushed.index("A message has these fields") :], "| field | type")
    assert [row[:3] for row in rows] == fields(Message)
    assert sorted(row[:3] for row in table(SECTIONS["Conversation state"], "| field | type")) == sorted(
        fields(ConversationState)
    )


PARTS = {
    "field of `limits`": frames.Limits,
    "field of `windows`": frames.Windows,
    "field of a member": frames.GroupMember,
    "field of `settings`": frames.GroupSettings,
    "field of a friend": frames.Friend,
    "field of a friend request": frames.FriendRequest,
}


def test_every_field_of_a_part_of_a_frame_is_explained():
    for head, kind in PARTS.items():
        assert [row[:3] for row in table(PROTOCOL, f"| {head} |")] == fields(kind)
    skipped = table(SECTIONS["The newest messages first"], "| field | type")
    assert [row[:3] for row in skipped] == fields(model.Skipped)
    assert {*PARTS.values(), model.Skipped} == set(frames.PARTS)


def test_every_request_has_its_answer_in_the_table():
    rows = table(PROTOCOL, "| request | answer |")
    requests = [op for row in rows for op in names(row[0])]
    assert sorted(requests) == sorted(frame.op for frame in get_args(frames.Request))
    assert {op for row in rows for op in names(row[1])} < set(FRAME_TYPES)


def test_chapters_list_every_frame():
    listed = [op for _, ops in table(PROTOCOL, "| chapter | frames |") for op in names(ops)]
    assert sorted(listed) == sorted(FRAME_TYPES)


def test_page_states_sizes_of_largest_frames():
    stated = [int(number.replace(",", "")) for number in re.findall(r"has at most ([\d,]+) bytes", PROTOCOL)]
    assert stated == [largest_from_client(Policies()), largest_to_client(Policies())]


# --- message types ----------------------------------------------------------------------------------------------------


def test_every_message_type_is_explained_with_its_attachment():
    rows = {name: cell for row, cell in table(REFERENCE, "| type | fields of `file` |\n") for name in names(row)}
    assert set(rows) == set(ATTACHMENTS)
    for type, expected in ATTACHMENTS.items():
        assert ("no `file`" in rows[type]) == (not expected or type in OPTIONAL)
        if expected:
            assert names(rows[type].partition(";")[0]) == list(expected)


def test_table_has_bounds_of_attachments():
    bounds = {
        name: numbers(cell) for row, _, cell in table(REFERENCE, "| field | type | bounds |") for name in names(row)
    }
    kinds = {name: cell for row, cell, _ in table(REFERENCE, "| field | type | bounds |") for name in names(row)}
    every = {name: field for expected in ATTACHMENTS.values() for name, field in expected.items()}
    assert set(bounds) == set(every)
    for name, field in every.items():
        match field:
            case attachments.Text() | attachments.Texts(attachments.Text()):
                text = field if isinstance(field, attachments.Text) else field.each
                assert bounds[name] == [text.shortest, text.longest]
                assert kinds[name].startswith("string" if field is text else "list of strings")
            case attachments.Number():
                assert bounds[name] == [field.least, field.most]
                assert kinds[name] == f"{'integer' if field.whole else 'number'}, {field.unit}"
            case attachments.Anything():
                assert kinds[name] == "object"


# --- notifications and system messages --------------------------------------------------------------------------------

MEMBERS = ("owen", "ann", "mike", "mary")
USERS = {"owner": "owen", "admin": "ann", "member": "mike", "outsider": "eve"}
MANAGERS, EVERYBODY = {"owner", "admin"}, set(USERS)
JOIN = ("open", "approval", "invite")

#: The roles that a cell "sent by" names, by the group's setting `join`.
SENT_BY = {
    "every user, if the group does not exist": lambda join: EVERYBODY,
    "owner": lambda join: {"owner"},
    "owner, admins": lambda join: MANAGERS,
    "owner, admins; the invited user": lambda join: {*MANAGERS, "invited"},
    "owner, admins; members unless `join` is `invite`": lambda join: {*MANAGERS, *(["member"] * (join != "invite"))},
    "members except the owner": lambda join: {"admin", "member"},
    "non-members, if `join` is `open`": lambda join: {"outsider"} if join == "open" else set(),
    "non-members, if `join` is `approval`": lambda join: {"outsider"} if join == "approval" else set(),
}

#: By event: the targets and the data of an attempt. `ben` has applied, and `ann` has invited `ivy`.
ATTEMPTS = {
    "create": (("zoe", "ben"), {}), "configure": ((), {"title": "x"}), "invite": (("zoe", "ben"), {}), "join": ((), {}),
    "apply": ((), {}), "accept": (("ben",), {}), "reject": (("ben",), {}), "leave": ((), {}), "kick": (("mary",), {}),
    "dismiss": ((), {}), "transfer": (("mary",), {}), "role": (("mary",), {"role": "admin"}),
    "mute": (("mary",), {}), "unmute": (("mary",), {}),
}  # fmt: skip

#: The users who receive a system message, in the attempts above and in those of two friends, alice and bob.
RECEIVED_BY = {
    "the other user": {"bob"},
    "the user who asked": {"bob"},
    "the invited user": {"zoe", "ben"},
    "the owner and the admins": {"owen", "ann"},
    "the applicant, or the user who invited": {"ben", "ann"},
    "the users who were removed": {"mary"},
    "the members except the owner": {"ann", "mike", "mary"},
}


class Recorded(dict):
    """A change's data that records the keys that the rules look up."""

    def __init__(self, *args):
        super().__init__(*args)
        self.read = set()

    def get(self, key, default=None):
        self.read.add(key)
        return super().get(key, default)


def attempt_in_group(event: str, role: str, join: str, consent: bool = False):
    """Return the decision, or None if the rules forbid it, and the data that the rules looked up."""
    targets, given = ATTEMPTS[event]
    data = Recorded(given)
    if role == "invited":
        targets = ()
    pending = {
        user: dataclasses.asdict(groups.Pending(kind, by, 1, 1000, notified))
        for user, kind, by, notified in (("ben", "apply", "ben", ["owen", "ann"]), ("ivy", "invite", "ann", ["ivy"]))
    }
    state = groups.Group("owen", "title", join, consent, ["ann"], ["mary"], False, pending).to_dict()
    members = MEMBERS
    if event == "create":
        data["consent"] = consent
        state, members = None, ()
    change = Change("group:g", 9, 0, event, USERS.get(role, "ivy"), targets, data)
    try:
        return groups.decide(state, members, change, groups.Limits(100, 1000)), data.read
    except RuleViolation:
        return None, data.read


def attempt_between_friends(event: str):
    request = {"by": "bob", "id": "p2p:alice:bob:1", "expires": 1000}
    state = {
        "friends": event == "friend_delete",
        "request": request if event in ("friend_accept", "friend_reject") else None,
    }
    change = Change("p2p:alice:bob", 9, 0, event, "alice", (), Recorded())
    return friends.decide(state, ("alice", "bob"), change, 1000), change.data.read


def events(title: str) -> dict[str, list[str]]:
    """Return the rows of the section's table of events by event, without the event. Several events can share a row."""
    rows = table(SECTIONS[title], "| event |")
    for row in rows:
        assert ("(silent)" in row[0]) == all(event in SILENT for event in names(row[0])), row[0]
    return {event: row[1:] for row in rows for event in names(row[0])}


def data_fields(cell: str) -> set[str]:
    """Return the fields that a cell names: those before a colon, or all if there is no colon."""
    return set(re.findall(r"`(\w+)`:", cell) or names(cell))


def test_every_event_is_explained():
    assert set(events("Groups")) == set(groups.EVENTS)
    assert set(events("Friends")) == set(friends.EVENTS)
    assert set(events("Recall and edit")) == set(amendments.EVENTS)
    assert {*groups.EVENTS, *friends.EVENTS, *amendments.EVENTS, "resolve"} >= SILENT
    assert "`resolve` (silent)" in SECTIONS["System messages"]


@pytest.mark.parametrize("event", groups.EVENTS)
def test_table_names_roles_that_may_send_group_event(event):
    roles = SENT_BY[events("Groups")[event][0]]
    tried = [*USERS, *(["invited"] if event in ("accept", "reject") else [])]
    for join in JOIN:
        assert {role for role in tried if attempt_in_group(event, role, join)[0] is not None} == roles(join)


@pytest.mark.parametrize("event", groups.EVENTS)
def test_table_names_data_of_group_event(event):
    read = set().union(*(attempt_in_group(event, role, join)[1] for role in USERS for join in JOIN))
    assert read == data_fields(events("Groups")[event][2])


@pytest.mark.parametrize("event", amendments.EVENTS)
def test_table_names_data_of_amendment(event):
    message = Message("p2p:a:b", 1, "p2p:a:b:1", "x", model.Scene.P2P, "text", "a", "b", 0, "hello")
    change = Change("p2p:a:b", 2, 0, event, "a", (), Recorded({"seq": 1, "content": "hi"}))
    amendments.target_seq(change)
    amendments.decide(change, message, rank=0, recall_window=1, edit_window=1)
    assert change.data.read == data_fields(events("Recall and edit")[event][1])


def notes_of(event: str) -> list[decision.Note]:
    """Return the system messages that the event causes in any of its attempts."""
    if event in friends.EVENTS:
        return list(attempt_between_friends(event)[0].notes)
    roles = (*USERS, "invited")
    tried = [
        attempt_in_group(event, role, join, consent)[0] for role in roles for join in JOIN for consent in (False, True)
    ]
    return [note for one in tried if one is not None for note in one.notes]


@pytest.mark.parametrize("event", [*groups.EVENTS, *friends.EVENTS])
def test_tables_name_system_messages_of_event(event):
    cell = (events("Groups") if event in groups.EVENTS else events("Friends"))[event][-1]
    rows = table(REFERENCE, "| type | fields of `file` | cause |")
    caused = {type for row in rows for type in names(row[0]) if event in names(row[2])}
    found = {note.type for note in notes_of(event)}
    assert found - {"resolve"} == caused == set(re.findall(r"`((?:group|friend)_\w+)`", cell))
    assert ("resolve" in found) == ("`resolve`" in cell)


def test_every_system_message_is_explained():
    rows = {names(row[0])[0]: row[1:] for row in table(REFERENCE, "| type | fields of `file` | cause |")}
    sources = "".join(inspect.getsource(module) for module in (groups, friends, amendments, decision))
    written = set(re.findall(r'Note\(\w+, "(\w+)"', sources))
    assert written - {"resolve"} == set(rows) - {"notification", "custom"}
    for type, (file, cause, received_by, answers) in rows.items():
        if type in ("notification", "custom"):
            continue
        notes = [note for event in names(cause) for note in notes_of(event) if note.type == type]
        assert {"conversationId"}.union(*(note.data for note in notes)) == set(names(file)) - {"consent"}
        assert {note.user for note in notes} == RECEIVED_BY[received_by]
        assert any("state" in note.data for note in notes) == bool(answers)
        assert set(names(answers)) <= {*groups.EVENTS, *friends.EVENTS, "state", "from", "targets"}
    assert set(names(rows["notification"][0])) - {"resolve"} == set(ATTACHMENTS["notification"])


def test_states_of_a_resolved_request_are_explained():
    sources = "".join(inspect.getsource(module) for module in (groups, friends))
    states = set(
        re.findall(r'"(passed|rejected|expired|\w+)"\)', " ".join(re.findall(r"(?:resolved|_answer)\(.*?\)", sources)))
    )
    assert states == {"passed", "rejected", "expired"}
    assert all(f"`{state}`" in SECTIONS["System messages"] for state in states)


# --- codes ------------------------------------------------------------------------------------------------------------


def test_every_error_code_is_explained():
    refused = table(REFERENCE, "| code | reconnect |")
    rejected = table(REFERENCE, "| code | retry |")
    assert {name for row in (*refused, *rejected) for name in names(row[0])} == {str(code) for code in Code}
    for (cell, reconnect, *_), flag in [(row, "reconnects") for row in refused] + [
        (row, "retryable") for row in rejected
    ]:
        (code,) = names(cell)
        assert reconnect == ("yes" if getattr(Code(code), flag) else "no"), code
    assert {name for row in refused for name in names(row[0])} >= {code for code in Code if code.reconnects}
    assert {name for row in rejected for name in names(row[0])} >= {code for code in Code if code.retryable}


def test_errors_of_the_chapters_are_codes():
    cells = [row[0] for text in SECTIONS.values() if "| error |" in text for row in table(text, "| error |")]
    lines = re.findall(r"^Errors.*?\n\n", TEXT, re.DOTALL | re.MULTILINE)
    assert len(cells) > 20
    assert {name for cell in cells for name in names(cell)} <= set(Code)
    assert all(set(names(line)) & set(Code) for line in lines)


#: The bytes that a client writes after its login to receive each close code.
ENDINGS = {
    1000: (b"\x81\x81\x00\x00\x00\x00x",),
    1002: (b"\xf1\x82\x00\x00\x00\x00{}", b"\x81\x02{}"),
    1003: (b"\x82\x81\x00\x00\x00\x00x", b"\x02\x80\x00\x00\x00\x00"),
    1007: (b"\x88\x84\x00\x00\x00\x00\x03\xe8\xff\xfe", b"\x81\x82\x00\x00\x00\x00\xff\xfe"),
    1009: (b"\x81\xff\x00\x00\x00\x00\x00\x40\x00\x00\x00\x00\x00\x00x",),
}


def test_table_has_close_codes():
    async def ended_by(written: bytes | None) -> tuple[int, str]:
        server = Server(Policies(), MemoryStore(), key="key")
        await server.start()
        async with connect(server.url) as client:
            token, _ = server._tokens.issue("alice", server._wall())
            await client.send(json.dumps({"op": "login", "token": token, "device": "phone"}))
            await client.recv()
            if written is not None:
                client.transport.write(written)
            stopping = asyncio.create_task(server.stop()) if written is None else None
            refused = json.loads(await client.recv())
            with pytest.raises(ConnectionClosed):
                await client.recv()
        await (stopping or server.stop())
        return client.close_code, refused["code"]

    async def endings() -> dict[int, set[str]]:
        found = {code: {await ended_by(one) for one in written} for code, written in ENDINGS.items()}
        return {**found, 1001: {await ended_by(None)}}

    rows = {int(code): names(meaning) for code, meaning in table(REFERENCE, "| close code | meaning |")}
    found = asyncio.run(endings())
    assert set(rows) == {*found, 1006}
    for code, ends in found.items():
        assert {close_code for close_code, _ in ends} == {code}
        assert {name for _, name in ends} == (set(rows[code]) - {"refused"} or {"bad_frame"})


# --- policies and limits ----------------------------------------------------------------------------------------------

SETTINGS = {
    f"{section.__name__.lower()}.{name}": field.default
    for section in (sections.Policies, sections.Limits)
    for name, field in section.model_fields.items()
}


def settings(head: str) -> dict[str, list[str]]:
    rows = table(REFERENCE, head)
    return {re.fullmatch(r"`(\w+\.\w+)`", row[0])[1]: row[1:] for row in rows}


def test_every_choice_is_explained_with_its_values():
    rows = settings("| policy | values |")
    choices = {name: default for name, default in SETTINGS.items() if isinstance(default, StrEnum)}
    assert list(rows) == list(choices)
    for name, (values, default, _) in rows.items():
        assert names(values) == [str(value) for value in type(choices[name])]
        assert names(default) == [str(choices[name])]


def test_other_policies_and_limits_are_explained_with_defaults():
    rows = {**settings("| policy | default |"), **settings("| limit | default |")}
    assert set(rows) == {name for name, default in SETTINGS.items() if not isinstance(default, StrEnum)}
    for name, (default, *_) in rows.items():
        assert numbers(default) == [float(SETTINGS[name])], name


def test_defaults_in_the_text_are_current():
    stated = re.findall(r"`((?:policies|limits)\.\w+)` \(([\d,.]*\d)(?: s)?[,)]", " ".join(TEXT.split()))
    assert len(stated) > 8
    for name, default in stated:
        assert float(default.replace(",", "")) == SETTINGS[name], name


def test_settings_in_text_exist():
    assert set(re.findall(r"`((?:policies|limits)\.\w+)`", TEXT)) <= set(SETTINGS)
    for name, value in re.findall(r"`(\w+) = \"(\w+)\"`", TEXT):
        assert value in [str(one) for one in type(SETTINGS[f"policies.{name}"])]


def test_table_has_fixed_limits():
    found = {label: numbers(value) for label, value, _ in table(REFERENCE, "| fixed limit |")}
    assert [value for (value,) in found.values()] == [
        int(re.search(r",(\d+)\}", model.NAME)[1]),
        model.LONGEST_ID_CLIENT,
        model.LONGEST_TYPE,
        groups._TITLE,
        model.LONGEST_REF,
        attachments.DEEPEST,
        limits.CURSORS,
        limits.UNREAD_RANGES,
        gateway_connection.READS,
        gateway_connection.CHANGES,
        conversations._WAITING,
        chatrooms._REMEMBERED,
    ]
    assert f"the longest pause is {pushes._LONGEST_TIMEOUT:.0f} s" in REFERENCE


# --- links ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_pages_lead_to_headings(page):
    def anchors(text: str) -> set[str]:
        titles = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        return {re.sub(r"[^\w\- ]", "", title).lower().replace(" ", "-") for title in titles}

    for file, anchor in re.findall(r"\]\(([\w.-]*)(?:#([\w-]+))?\)", page.read_text()):
        target = page.parent / file if file else page
        assert not anchor or anchor in anchors(target.read_text()), (file, anchor)
