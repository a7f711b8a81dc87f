"""The sessions of the XMPP adapter, by hand: the test gives them the stanzas of a server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re

import pytest

from imsim.core.exceptions import UsageError
from imsim.core.model import Code, Scene
from imsim.core.policies import Policies
from imsim.load.adapters import (
    Acked,
    Closed,
    Connect,
    Connected,
    Conversation,
    Delivered,
    Disconnect,
    Disconnected,
    Failed,
    Feature,
    Joined,
    Message,
    NotJoined,
    Offline,
    Read,
    Ready,
    Received,
    Sent,
    Target,
    find,
)
from imsim.load.adapters.xmpp import XmppAdapter
from imsim.load.adapters.xmpp.session import XmppSession
from imsim.load.adapters.xmpp.stanzas import Refusal, escaped, name_of, node_of, parse

ANN, BOB = Conversation(Scene.P2P, "ann"), Conversation(Scene.P2P, "bob")
TEAM, LOBBY = Conversation(Scene.GROUP, "team"), Conversation(Scene.CHATROOM, "lobby")
ROOM = "group.team@conference.localhost"
OPENING = b"<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' to='localhost' version='1.0'/>"
OPENED = "<open xmlns='urn:ietf:params:xml:ns:xmpp-framing' from='localhost' id='x' version='1.0'/>"
ASK = b"<r xmlns='urn:xmpp:sm:3'/>"
CLOSE = b"<close xmlns='urn:ietf:params:xml:ns:xmpp-framing'/>"
SUCCESS = "<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"
BOUND = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'><jid>ann@localhost/phone</jid></bind>"
DELAY = "<delay xmlns='urn:xmpp:delay' stamp='2026-01-01T00:00:00Z'/>"
ERRORS = "urn:ietf:params:xml:ns:xmpp-stanzas"


def adapter(url: str = "ws://localhost:5280/xmpp-websocket", key: str = "", **more) -> XmppAdapter:
    policies = {
        name: more.pop(name)
        for name in (
            "heartbeat",
            "heartbeat_timeout",
            "login_timeout",
            "reconnect_min",
            "reconnect_max",
            "send_attempts",
        )
        if name in more
    }
    draw = more.pop("draw", lambda number: lambda: 0.5)
    return XmppAdapter(Target(url, key, policies=Policies(**policies), options=more, draw=draw))


class Hand:
    """A session, and a server that is written by hand."""

    def __init__(self, one: XmppAdapter | None = None, user: str = "ann", device: str = "phone", **more) -> None:
        self.adapter = one or adapter(**more)
        self.session: XmppSession = self.adapter.session(0, user, device)
        self.now = 0.0

    def get(self, *frames: object):
        """Give inputs to the session, texts as frames. Return what it does."""
        outs = []
        for frame in frames:
            outs += self.session.received(frame.encode() if isinstance(frame, str) else frame, self.now)
        return outs

    def tick(self):
        """Advance to the next deadline, and handle it."""
        self.now = self.session.next_deadline()
        return self.session.handle_timer(self.now)

    def send(self, conversation: Conversation = BOB, id: str = "x:1", text: str = "hi"):
        return self.session.send(Message(id, conversation, text), self.now)

    def connect(self):
        timeout = self.adapter.target.policies.login_timeout
        [connect] = self.session.start(self.now)
        assert connect == Connect("ws://localhost:5280/xmpp-websocket", ("xmpp",), timeout=timeout)
        assert self.get(Connected("xmpp")) == [OPENING]
        return self

    def authenticate(self, registers: bool = True):
        outs = self.get(OPENED, features("register" if registers else "", "PLAIN"))
        if registers and self.adapter.settings.accounts.get("ann", True) is not None:
            [register] = outs
            assert b"<username>ann</username><password>imsim</password>" in register
            outs = self.get("<iq xmlns='jabber:client' type='result' id='register'/>")
        [auth] = outs
        assert b"mechanism='PLAIN'>" + base64.b64encode(b"\0ann\0imsim") + b"<" in auth
        assert self.get(SUCCESS) == [OPENING]
        return self

    def bind(self, sm: bool = True):
        [bind] = self.get(OPENED, bound_features(sm))
        assert b"<resource>phone</resource>" in bind
        return self.get(result(bind, BOUND))

    def log_in(self, sm: bool = True):
        """Log in, and return the session with no stanza unacknowledged."""
        self.connect().authenticate()
        outs = self.bind(sm)
        if sm:
            assert outs[0] == b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>"
            assert self.get("<enabled xmlns='urn:xmpp:sm:3' id='s1' resume='true'/>") == []
        assert b"<presence xmlns='jabber:client'/>" in outs
        assert self.get(result(outs[-1])) == [Ready()]
        if sm:
            assert self.get(handled(2)) == []
        return self

    def enter(self, conversation: Conversation = TEAM):
        """Join a room that exists."""
        [join] = self.session.join(conversation, ["ann", "bob"], False, self.now)
        room = attribute(join, "to")
        assert b"<history maxstanzas='0'/>" in join
        assert self.get(in_room(room)) == [Joined(conversation)]
        return self


def features(*offers: str) -> str:
    register = "<register xmlns='http://jabber.org/features/iq-register'/>" if "register" in offers else ""
    mechanisms = "".join(f"<mechanism>{one}</mechanism>" for one in offers if one and one != "register")
    sasl = f"<mechanisms xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{mechanisms}</mechanisms>"
    return f"<stream:features xmlns:stream='http://etherx.jabber.org/streams'>{register}{sasl}</stream:features>"


def bound_features(sm: bool = True) -> str:
    bind = "<bind xmlns='urn:ietf:params:xml:ns:xmpp-bind'/>" + ("<sm xmlns='urn:xmpp:sm:3'/>" if sm else "")
    return f"<stream:features xmlns:stream='http://etherx.jabber.org/streams'>{bind}</stream:features>"


def attribute(frame: bytes, name: str) -> str:
    found = re.search(f" {name}='([^']*)'".encode(), frame)
    assert found is not None
    return found[1].decode()


def result(request: bytes, content: str = "", sender: str = "ann@localhost") -> str:
    return f"<iq xmlns='jabber:client' type='result' id='{attribute(request, 'id')}' from='{sender}'>{content}</iq>"


def failed(request: bytes, condition: str, text: str = "", type: str = "cancel") -> str:
    id = attribute(request, "id")
    return f"<iq xmlns='jabber:client' type='error' id='{id}'>{error(condition, text, type)}</iq>"


def error(condition: str, text: str = "", type: str = "cancel") -> str:
    words = f"<text xmlns='{ERRORS}'>{text}</text>" if text else ""
    return f"<error type='{type}'><{condition} xmlns='{ERRORS}'/>{words}</error>"


def handled(h: int) -> str:
    return f"<a xmlns='urn:xmpp:sm:3' h='{h}'/>"


def message(id: str = "x:9", sender: str = "bob@localhost/phone", content: str = "<body>hi</body>", type: str = "chat"):
    return (
        f"<message xmlns='jabber:client' type='{type}' id='{id}' from='{sender}' to='ann@localhost'>{content}</message>"
    )


def in_room(me: str, *codes: str) -> str:
    status = "".join(f"<status code='{code}'/>" for code in ("110", *codes))
    return (
        f"<presence xmlns='jabber:client' from='{me}'>"
        f"<x xmlns='http://jabber.org/protocol/muc#user'><item role='moderator'/>{status}</x></presence>"
    )


def forwarded(id: str, sender: str, to: str, content: str = "<body>hi</body>", type: str = "chat") -> str:
    return (
        f"<forwarded xmlns='urn:xmpp:forward:0'>{DELAY}<message xmlns='jabber:client' type='{type}' id='{id}' "
        f"from='{sender}' to='{to}'>{content}</message></forwarded>"
    )


def carbon(kind: str, *arguments: str, sender: str = "ann@localhost") -> str:
    copy = f"<{kind} xmlns='urn:xmpp:carbons:2'>{forwarded(*arguments)}</{kind}>"
    return f"<message xmlns='jabber:client' from='{sender}' to='ann@localhost/phone'>{copy}</message>"


def reason(outs) -> str:
    assert [type(out) for out in outs] == [Disconnect, Closed]
    return outs[1].reason


# --- the adapter ------------------------------------------------------------------------------------------------------


def test_adapter_has_its_name():
    assert find("xmpp") is XmppAdapter


def test_features_depend_on_options():
    always = {Feature.ACK, Feature.GROUPS, Feature.CHATROOMS}
    assert adapter().features == always | {Feature.OWN_DEVICES}
    assert adapter(carbons="off").features == always
    assert adapter(resume="archive").features == always | {Feature.OWN_DEVICES, Feature.RESUME}
    assert adapter(reads="markers").features == always | {Feature.OWN_DEVICES, Feature.RECEIPTS}


@pytest.mark.parametrize(
    ("url", "options", "text"),
    [
        ("http://localhost:5280", {}, "url: must be the WebSocket address"),
        ("ws://", {}, "url: must be the WebSocket address"),
        ("ws://h", {"domein": "x"}, "option domein: unknown name"),
        ("ws://h", {"acks": "yes"}, r"option acks: must be sm or receipts \(got 'yes'\)"),
        ("ws://h", {"domain": "a b"}, "option domain: must be a domain"),
        ("ws://h", {"muc": "a/b"}, "option muc: must be a domain"),
    ],
)
def test_adapter_refuses_wrong_target(url, options, text):
    with pytest.raises(UsageError, match=text):
        XmppAdapter(Target(url, options=options))


def test_addresses_use_domains_of_options():
    default = adapter("ws://Chat.example.org/ws")
    assert default.settings.address(BOB) == "bob@chat.example.org"
    assert default.settings.address(TEAM) == "group.team@conference.chat.example.org"
    assert adapter("ws://127.0.0.1:5280/ws").settings.address(BOB) == "bob@localhost"
    given = adapter(domain="example.org", muc="rooms.example.org")
    assert (given.settings.address(BOB), given.settings.address(LOBBY)) == (
        "bob@example.org",
        "chatroom.lobby@rooms.example.org",
    )


@pytest.mark.parametrize("name", ["run.ann", "Ann", "ANN-1_x", "a b@c/d", "é=41", ""])
def test_names_survive_servers_that_fold_case(name):
    assert name_of(node_of(name)) == name
    assert re.fullmatch("[a-z0-9._=-]*", node_of(name))


# --- frames -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"<!DOCTYPE message [<!ENTITY a 'b'>]><message xmlns='jabber:client'>&a;</message>",
        b"<?xml version='1.0'?><!DOCTYPE a []><a/>",
        b" <!DOCTYPE a []><a/>",
        b"<\0a\0/\0>\0",
        b"<a>",
        b"<a/><!DOCTYPE a []>",
        b"<a/><a/>",
        b"<a>&b;</a>",
        b"<a>\xff</a>",
        b"hello",
        b"",
    ],
)
def test_frame_with_dtd_or_invalid_xml_ends_session(frame):
    with pytest.raises(Refusal):
        parse(frame)
    hand = Hand().log_in()
    assert "the server sent a frame that" in reason(hand.get(frame))
    assert hand.session.next_deadline() is None


def test_text_is_escaped():
    text = "<b>&'\"\r\n\t\x00\ud800\U0001f600"
    assert parse(f"<a b='{escaped(text)}'>{escaped(text)}</a>".encode()).text == "<b>&'\"\r\n\t��\U0001f600"


def test_unknown_stanzas_are_ignored():
    hand = Hand().log_in()
    assert hand.get("<other xmlns='x'/>", message(content="<composing xmlns='x'/>"), message("", type="headline")) == [
        Delivered("", ANN)
    ]
    assert hand.get("<message xmlns='jabber:client' from='bob@localhost/a'><body>no id</body></message>") == []
    assert hand.get("<presence xmlns='jabber:client' from='bob@localhost/a'/>") == []
    assert hand.get(ASK.decode()) == [b"<a xmlns='urn:xmpp:sm:3' h='5'/>"]


# --- the login --------------------------------------------------------------------------------------------------------


def test_login_announces_device_and_enables_carbons():
    hand = Hand()
    hand.connect().authenticate()
    enable, presence, carbons = hand.bind()
    assert (enable, presence) == (
        b"<enable xmlns='urn:xmpp:sm:3' resume='true'/>",
        b"<presence xmlns='jabber:client'/>",
    )
    assert b"<enable xmlns='urn:xmpp:carbons:2'/>" in carbons
    assert hand.get("<enabled xmlns='urn:xmpp:sm:3' id='s1' resume='true'/>", result(carbons)) == [Ready()]


def test_repeated_answers_of_the_login_are_ignored():
    hand = Hand().connect().authenticate()
    assert hand.get(SUCCESS, SUCCESS) == []
    [bind] = hand.get(bound_features(), bound_features())
    assert hand.get(f"<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='{ERRORS}'/></failed>") == []
    *_, carbons = hand.get(result(bind, BOUND), result(bind, BOUND))
    enabled = "<enabled xmlns='urn:xmpp:sm:3' id='s1' resume='true'/>"
    assert hand.get(enabled, result(carbons), enabled) == [Ready()]
    assert hand.get("<resumed xmlns='urn:xmpp:sm:3' h='1' previd='s1'/>") == []
    assert hand.get(ASK.decode()) == [b"<a xmlns='urn:xmpp:sm:3' h='1'/>"]


def test_login_without_carbons_ends_with_ping():
    hand = Hand(carbons="off")
    hand.connect().authenticate()
    *_, ping = hand.bind()
    assert b"to='localhost'><ping xmlns='urn:xmpp:ping'/>" in ping
    assert hand.get(failed(ping, "service-unavailable")) == [Ready()]


def test_wrong_subprotocol_ends_session():
    hand = Hand()
    hand.session.start(0.0)
    assert "subprotocol xmpp" in reason(hand.get(Connected(None)))


def test_existing_account_logs_in():
    hand = Hand().connect()
    [register] = hand.get(features("register", "PLAIN"))
    [auth] = hand.get(failed(register, "conflict"))
    assert b"mechanism='PLAIN'" in auth


@pytest.mark.parametrize(
    ("condition", "type", "text"),
    [
        (
            "resource-constraint",
            "wait",
            "limits the registration of accounts, .*registration_timeout: infinity.*Prosody",
        ),
        ("policy-violation", "wait", "limits the registration of accounts, .*register=off"),
        ("not-allowed", "cancel", r"refused to register an account, not-allowed \(no\): enable it"),
    ],
)
def test_refused_registration_names_the_setting(condition, type, text):
    hand = Hand().connect()
    [register] = hand.get(features("register", "PLAIN"))
    why = reason(hand.get(failed(register, condition, "no", type)))
    assert re.search(text, why)
    assert "\n" not in why


def test_missing_registration_names_the_setting():
    assert "mod_register" in reason(Hand().connect().get(features("PLAIN")))


def test_registration_can_be_off():
    [auth] = Hand(register="off").connect().get(features("register", "PLAIN"))
    assert b"<auth " in auth


def test_one_device_of_a_user_registers_and_the_others_wait():
    one = adapter()
    first, second = Hand(one).connect(), Hand(one, device="laptop").connect()
    [register] = first.get(features("register", "PLAIN"))
    assert second.get(features("register", "PLAIN")) == []
    assert second.tick() == []
    assert second.now == 0.05
    first.get(result(register))
    [auth] = second.tick()
    assert b"<auth " in auth
    assert second.session.next_deadline() == 10.0


def test_device_registers_after_another_one_failed_to():
    one = adapter()
    first, second = Hand(one).connect(), Hand(one, device="laptop").connect()
    first.get(features("register", "PLAIN"))
    second.get(features("register", "PLAIN"))
    first.get(Disconnected("lost"))
    [register] = second.tick()
    assert b"jabber:iq:register" in register


def test_device_that_waits_for_its_account_times_out():
    one = adapter(login_timeout=0.12)
    Hand(one).session.start(0.0)
    first, second = Hand(one), Hand(one, device="laptop")
    for hand in (first, second):
        hand.session.start(0.0)
        hand.get(Connected("xmpp"), features("register", "PLAIN"))
    assert [second.tick(), second.tick()] == [[], []]
    assert second.tick() == [Disconnect(), Offline("no login within 0.12 s")]


def test_missing_sasl_mechanism_names_the_setting():
    why = reason(Hand(register="off").connect().get(features("DIGEST-MD5", "X-OAUTH2")))
    assert "DIGEST-MD5, X-OAUTH2" in why
    assert "consider_websocket_secure" in why


def test_wrong_password_ends_session():
    hand = Hand(register="off").connect()
    hand.get(features("PLAIN"))
    refused = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><not-authorized/><text>bad</text></failure>"
    why = reason(hand.get(refused))
    assert why.startswith("the server refused the login of ann@localhost, not-authorized (bad): ")
    assert "key of the run" in why


def test_temporary_failure_of_login_is_retried():
    hand = Hand(register="off").connect()
    hand.get(features("PLAIN"))
    refused = "<failure xmlns='urn:ietf:params:xml:ns:xmpp-sasl'><temporary-auth-failure/></failure>"
    disconnect, offline = hand.get(refused)
    assert isinstance(disconnect, Disconnect)
    assert isinstance(offline, Offline)
    assert isinstance(hand.tick()[0], Connect)


def scram(hand: Hand, mechanism: str, algorithm: str) -> tuple[list, str]:
    """Play the server of SCRAM (RFC 5802). Return what the session does, and the proof of the server."""
    [first] = hand.get(features(mechanism))
    assert f"mechanism='{mechanism}'".encode() in first
    bare = base64.b64decode(first.split(b">")[1].split(b"<")[0]).decode().removeprefix("n,,")
    nonce = bare.partition(",r=")[2]
    challenge = f"r={nonce}server,s={base64.b64encode(b'salt').decode()},i=4"
    sent = base64.b64encode(challenge.encode()).decode()
    [answer] = hand.get(f"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{sent}</challenge>")
    final, _, proof = base64.b64decode(answer.split(b">")[1].split(b"<")[0]).decode().partition(",p=")
    assert final == f"c=biws,r={nonce}server"
    salted = hashlib.pbkdf2_hmac(algorithm, b"imsim", b"salt", 4)
    signed = f"{bare},{challenge},{final}".encode()
    stored = hashlib.new(algorithm, hmac.digest(salted, b"Client Key", algorithm)).digest()
    signature = hmac.digest(stored, signed, algorithm)
    key = bytes(a ^ b for a, b in zip(base64.b64decode(proof), signature, strict=True))
    assert hashlib.new(algorithm, key).digest() == stored, "the server accepts the proof"
    server = hmac.digest(hmac.digest(salted, b"Server Key", algorithm), signed, algorithm)
    return final, base64.b64encode(b"v=" + base64.b64encode(server)).decode()


@pytest.mark.parametrize(("mechanism", "algorithm"), [("SCRAM-SHA-1", "sha1"), ("SCRAM-SHA-256", "sha256")])
def test_scram_logs_in_and_checks_the_server(mechanism, algorithm):
    hand = Hand(register="off").connect()
    _, proof = scram(hand, mechanism, algorithm)
    assert hand.get(f"<success xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{proof}</success>") == [OPENING]


def test_server_without_proof_of_password_ends_session():
    hand = Hand(register="off").connect()
    scram(hand, "SCRAM-SHA-1", "sha1")
    assert "did not prove" in reason(hand.get(SUCCESS))


@pytest.mark.parametrize("challenge", ["r=other,s=c2FsdA==,i=4", "s=c2FsdA==,i=4", "r=8,i=0", "r=8,s=!,i=4", "x"])
def test_invalid_scram_challenge_ends_session(challenge):
    hand = Hand(register="off", draw=lambda number: lambda: 8 / 2**53).connect()
    hand.get(features("SCRAM-SHA-1"))
    sent = base64.b64encode(challenge.encode()).decode()
    outs = hand.get(f"<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>{sent}</challenge>")
    assert "invalid SCRAM challenge" in reason(outs)


def test_challenge_of_plain_or_without_base64_ends_session():
    hand = Hand(register="off").connect()
    hand.get(features("PLAIN"))
    assert "SASL challenge" in reason(hand.get("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'/>"))
    hand = Hand(register="off").connect()
    hand.get(features("SCRAM-SHA-1"))
    assert "base64" in reason(hand.get("<challenge xmlns='urn:ietf:params:xml:ns:xmpp-sasl'>!</challenge>"))


def test_missing_stream_management_names_the_setting():
    hand = Hand().connect().authenticate()
    assert "acks=receipts" in reason(hand.get(bound_features(sm=False)))


def test_refused_stream_management_ends_session():
    hand = Hand().connect().authenticate()
    hand.bind()
    no = f"<failed xmlns='urn:xmpp:sm:3'><unexpected-request xmlns='{ERRORS}'/></failed>"
    assert "does not enable stream management, unexpected-request" in reason(hand.get(no))


def test_refused_resource_ends_session():
    hand = Hand().connect().authenticate()
    [bind] = hand.get(bound_features())
    assert "did not bind the resource 'phone', resource-constraint" in reason(
        hand.get(failed(bind, "resource-constraint"))
    )


def test_refused_carbons_name_the_setting():
    hand = Hand().connect().authenticate()
    *_, carbons = hand.bind()
    assert "carbons=off" in reason(hand.get(failed(carbons, "service-unavailable")))


def test_login_timeout_leads_to_backoff():
    hand = Hand(login_timeout=3.0, reconnect_min=1.0, reconnect_max=2.0)
    hand.session.start(0.0)
    assert hand.tick() == [Disconnect(), Offline("no login within 3 s")]
    assert hand.now == 3.0
    for pause in (0.5, 1.0, 1.0):  # half of the ceiling, which doubles up to `reconnect_max`
        before = hand.now
        assert isinstance(hand.tick()[0], Connect)
        assert hand.now == before + pause
        assert hand.get(Disconnected("refused")) == [Offline("refused")]


def test_backoff_begins_again_after_a_long_connection():
    hand = Hand(reconnect_min=1.0, reconnect_max=8.0).log_in()
    for pause in (0.5, 1.0, 2.0):
        hand.get(Disconnected("lost"))
        assert hand.session.next_deadline() == hand.now + pause
        hand.tick()
    other = Hand(reconnect_min=1.0, reconnect_max=8.0).log_in()
    other.get(Disconnected("lost"))
    other.tick()
    other.get(Connected("xmpp"), features("PLAIN"), SUCCESS, bound_features())
    assert other.get("<resumed xmlns='urn:xmpp:sm:3' h='2' previd='s1'/>") == [Ready()]
    other.now += 8.0
    other.get(Disconnected("lost"))
    assert other.session.next_deadline() == other.now + 0.5


def test_stop_closes_stream_and_start_begins_again():
    hand = Hand().log_in()
    assert hand.session.start(0.0) == []
    assert hand.session.stop(0.0) == [CLOSE, Disconnect()]
    assert hand.session.stop(0.0) == []
    assert hand.session.next_deadline() is None
    assert hand.get(message()) == []
    hand.connect()
    assert hand.session.stop(0.0) == [Disconnect()]


# --- the end of a stream ----------------------------------------------------------------------------------------------


def stream_error(condition: str, text: str = "") -> str:
    words = f"<text xmlns='urn:ietf:params:xml:ns:xmpp-streams'>{text}</text>" if text else ""
    return (
        "<stream:error xmlns:stream='http://etherx.jabber.org/streams'>"
        f"<{condition} xmlns='urn:ietf:params:xml:ns:xmpp-streams'/>{words}</stream:error>"
    )


@pytest.mark.parametrize("condition", ["system-shutdown", "connection-timeout", "reset", "resource-constraint"])
def test_passing_stream_error_leads_to_reconnect(condition):
    hand = Hand().log_in()
    assert hand.get(stream_error(condition, "bye")) == [Disconnect(), Offline(f"stream error {condition} (bye)")]
    assert isinstance(hand.tick()[0], Connect)


@pytest.mark.parametrize(
    ("condition", "text"),
    [
        ("conflict", "stream error conflict: another connection logged in as the same device"),
        ("policy-violation", "stream error policy-violation"),
        ("host-unknown", "stream error host-unknown"),
    ],
)
def test_permanent_stream_error_ends_session(condition, text):
    assert reason(Hand().log_in().get(stream_error(condition))) == text


def test_closed_stream_leads_to_reconnect():
    assert Hand().log_in().get(CLOSE) == [Disconnect(), Offline("the server closed the stream")]


def test_silent_server_is_pinged_and_then_left():
    hand = Hand(heartbeat=10.0, heartbeat_timeout=25.0).log_in()
    assert (hand.tick(), hand.now) == ([ASK], 10.0)
    hand.get(handled(2))
    assert (hand.tick(), hand.now) == ([ASK], 20.0)
    assert (hand.tick(), hand.now) == ([ASK], 30.0)
    assert hand.tick() == [Disconnect(), Offline("no frame from the server for 25 s")]
    assert hand.now == 35.0


def test_heartbeat_waits_while_the_server_sends():
    hand = Hand(heartbeat=10.0, heartbeat_timeout=25.0).log_in()
    hand.now = 7.0
    hand.get(message())
    assert (hand.tick(), hand.now) == ([], 10.0)
    assert (hand.tick(), hand.now) == ([ASK], 17.0)


def test_server_without_acks_is_pinged_with_request():
    hand = Hand(acks="receipts", heartbeat=10.0).log_in(sm=False)
    [ping] = hand.tick()
    assert b"<ping xmlns='urn:xmpp:ping'/>" in ping


def test_requests_of_the_server_get_answers():
    hand = Hand().log_in()
    ask = "<iq xmlns='jabber:client' type='get' id='1' from='localhost'>"
    assert hand.get(f"{ask}<ping xmlns='urn:xmpp:ping'/></iq>") == [
        b"<iq xmlns='jabber:client' id='1' to='localhost' type='result'/>"
    ]
    [refusal] = hand.get(f"{ask}<query xmlns='jabber:iq:version'/></iq>")
    assert b"type='error'" in refusal
    assert b"service-unavailable" in refusal


# --- messages and acks ------------------------------------------------------------------------------------------------


def test_message_is_acknowledged_by_stream_management():
    hand = Hand().log_in()
    frame, ask = hand.send(text="a <b>")
    assert frame == (
        b"<message xmlns='jabber:client' type='chat' id='x:1' to='bob@localhost'><body>a &lt;b&gt;</body></message>"
    )
    assert ask == ASK
    assert hand.get(handled(3)) == [Acked("x:1")]


def test_one_ack_request_waits_at_a_time():
    hand = Hand().log_in()
    assert len(hand.send(id="x:1")) == 2
    assert len(hand.send(id="x:2")) == 1
    assert hand.get(handled(3)) == [Acked("x:1"), ASK]
    assert len(hand.send(id="x:3")) == 1
    assert hand.get(handled(5)) == [Acked("x:2"), Acked("x:3")]
    assert len(hand.send(id="x:4")) == 2


def test_count_of_acks_wraps_around():
    hand = Hand().log_in()
    hand.session._stream._acknowledged = 2**32 - 1
    hand.send(id="x:1")
    hand.send(id="x:2")
    assert hand.get(handled(1)) == [Acked("x:1"), Acked("x:2")]


@pytest.mark.parametrize("h", ["4", "1", "-1", "x", "", "9" * 5000, "٣"])
def test_wrong_count_of_acks_ends_session(h):
    hand = Hand().log_in()
    hand.send()
    assert "the server " in reason(hand.get(f"<a xmlns='urn:xmpp:sm:3' h='{h}'/>"))


def test_message_waits_until_the_device_is_ready():
    hand = Hand()
    assert hand.send(id="x:1") == []
    hand.connect().authenticate()
    *_, carbons = hand.bind()
    assert hand.send(id="x:2") == []
    ready, one, ask, sent, other, again = hand.get(result(carbons))
    assert (ready, sent, again, ask) == (Ready(), Sent("x:1"), Sent("x:2"), ASK)
    assert b"id='x:1'" in one
    assert b"id='x:2'" in other


def test_message_without_ack_fails_after_all_attempts():
    hand = Hand(send_attempts=2, heartbeat=100.0).log_in()
    hand.send(id="x:1")
    hand.now = 1.0
    hand.send(id="x:2")
    patience = hand.adapter.settings.patience
    assert patience == 15.0
    assert hand.tick() == [Failed("x:1", Code.TIMEOUT, "no ack within 15 s")]
    assert hand.now == 15.0
    assert hand.tick() == [Failed("x:2", Code.TIMEOUT, "no ack within 15 s")]
    assert hand.now == 16.0
    assert hand.get(handled(4)) == []


def test_waiting_message_fails_while_the_device_is_offline():
    hand = Hand(send_attempts=1)
    hand.send()
    assert hand.tick() == [Failed("x:1", Code.TIMEOUT, "no ack within 5 s")]
    assert hand.session.next_deadline() is None
    hand.log_in()


@pytest.mark.parametrize(
    ("condition", "code"),
    [
        ("service-unavailable", Code.UNAVAILABLE),
        ("not-acceptable", Code.NOT_MEMBER),
        ("resource-constraint", Code.RATE_LIMITED),
        ("item-not-found", Code.NO_CONVERSATION),
        ("undefined-condition", "undefined-condition"),
    ],
)
def test_returned_message_fails_with_code(condition, code):
    hand = Hand().log_in()
    hand.send()
    returned = message("x:1", "bob@localhost", error(condition, "why"), "error")
    assert hand.get(returned) == [Failed("x:1", code, f"{condition}: why")]


def test_delivery_reports_id_and_conversation():
    hand = Hand().log_in()
    assert hand.get(message(), message()) == [Delivered("x:9", ANN), Delivered("x:9", ANN)]
    assert hand.get(message(content=f"<body>hi</body>{DELAY}")) == [Delivered("x:9", ANN, synced=True)]


def test_ack_request_counts_all_stanzas():
    hand = Hand().log_in()
    before = int(attribute(hand.get(ASK.decode())[0], "h"))
    hand.get(message(), "<presence xmlns='jabber:client'/>", "<iq xmlns='jabber:client' type='result' id='z'/>")
    assert hand.get(ASK.decode()) == [b"<a xmlns='urn:xmpp:sm:3' h='%d'/>" % (before + 3)]


def test_receipt_is_the_ack_if_the_option_says_so():
    hand = Hand(acks="receipts").log_in()
    frame, _ = hand.send()
    assert b"<request xmlns='urn:xmpp:receipts'/>" in frame
    assert hand.get(handled(3)) == [Received("x:1")]
    receipt = message("r", content="<received xmlns='urn:xmpp:receipts' id='x:1'/>")
    assert hand.get(receipt) == [Acked("x:1")]
    assert hand.get(receipt) == [], "the receipt of another device of the recipient"


def test_server_ack_after_the_receipt_is_no_event():
    hand = Hand(acks="receipts").log_in()
    hand.send()
    assert hand.get(message("r", content="<received xmlns='urn:xmpp:receipts' id='x:1'/>")) == [Acked("x:1")]
    assert hand.get(handled(3)) == []


def test_message_that_requests_a_receipt_gets_one():
    hand = Hand().log_in()
    delivered, receipt = hand.get(message(content="<body>hi</body><request xmlns='urn:xmpp:receipts'/>"))
    assert delivered == Delivered("x:9", ANN)
    assert b"to='bob@localhost/phone'><received xmlns='urn:xmpp:receipts' id='x:9'/>" in receipt


def test_many_receipts_lead_to_an_ack_request():
    hand = Hand().log_in()
    asked = message(content="<body>hi</body><request xmlns='urn:xmpp:receipts'/>")
    outs = hand.get(*[asked] * 32)
    assert outs.count(ASK) == 1
    assert outs[-1] == ASK


def test_reflection_is_the_ack_in_a_room_with_receipts():
    hand = Hand(acks="receipts").log_in().enter()
    frame, *_ = hand.send(TEAM)
    assert b"<request" not in frame
    assert hand.get(message("x:1", f"{ROOM}/ann.phone", type="groupchat")) == [Acked("x:1")]


def test_carbon_of_sent_message_is_a_delivery():
    hand = Hand().log_in()
    assert hand.get(carbon("sent", "x:7", "ann@localhost/laptop", "bob@localhost")) == [Delivered("x:7", BOB)]
    assert hand.get(carbon("received", "x:8", "bob@localhost/phone", "ann@localhost/laptop")) == [Delivered("x:8", ANN)]


def test_carbon_of_others_or_without_text_is_ignored():
    hand = Hand().log_in()
    copy = ("x:7", "ann@localhost/laptop", "bob@localhost")
    assert hand.get(carbon("sent", *copy, sender="eve@localhost/phone")) == []
    assert hand.get(carbon("sent", *copy, "<received xmlns='urn:xmpp:receipts' id='x:1'/>")) == []
    assert hand.get(carbon("sent", *copy, "<body>x</body>", "groupchat")) == []


def test_read_marker_is_read_when_the_server_has_it():
    hand = Hand(reads="markers").log_in()
    frame, ask = hand.session.read(BOB, "x:9", 0.0)
    assert b"to='bob@localhost'><displayed xmlns='urn:xmpp:chat-markers:0' id='x:9'/>" in frame
    assert ask == ASK
    assert hand.get(handled(3)) == [Read("x:9")]
    assert Hand().log_in().session.read(BOB, "x:9", 0.0) == []


# --- resumption -------------------------------------------------------------------------------------------------------


def lost(hand: Hand) -> list:
    """Lose the connection, and connect again up to the choice between resumption and a new session."""
    assert hand.get(Disconnected("cut")) == [Offline("cut")]
    assert hand.send(id="x:5") == []
    hand.tick()
    hand.get(Connected("xmpp"), features("register", "PLAIN"), SUCCESS)
    return hand.get(bound_features())


def test_lost_connection_is_resumed():
    hand = Hand().log_in()
    hand.get(message())
    for id in ("x:1", "x:2", "x:3"):
        hand.send(id=id)
    assert lost(hand) == [b"<resume xmlns='urn:xmpp:sm:3' h='2' previd='s1'/>"]
    outs = hand.get("<resumed xmlns='urn:xmpp:sm:3' h='3' previd='s1'/>")
    events = [out for out in outs if type(out) is not bytes]
    assert events == [Acked("x:1"), Sent("x:2"), Sent("x:3"), Ready(), Sent("x:5")]
    assert [attribute(out, "id") for out in outs if type(out) is bytes and out != ASK] == ["x:2", "x:3", "x:5"]
    assert hand.get(handled(6)) == [Acked("x:2"), Acked("x:3"), Acked("x:5")]


def test_message_that_failed_is_not_sent_again():
    hand = Hand(send_attempts=1, heartbeat=100.0).log_in()
    hand.send()
    assert hand.tick() == [Failed("x:1", Code.TIMEOUT, "no ack within 5 s")]
    lost(hand)
    outs = hand.get("<resumed xmlns='urn:xmpp:sm:3' h='2' previd='s1'/>")
    assert [out for out in outs if type(out) is not bytes] == [Ready(), Sent("x:5")]


def test_session_that_the_server_dropped_begins_again():
    hand = Hand().log_in().enter()
    for id in ("x:1", "x:2"):
        hand.send(id=id)
    lost(hand)
    no = f"<failed xmlns='urn:xmpp:sm:3' h='4'><item-not-found xmlns='{ERRORS}'/></failed>"
    acked, bind = hand.get(no)
    assert acked == Acked("x:1")
    *_, join, carbons = hand.get(result(bind, BOUND))
    assert attribute(join, "to") == f"{ROOM}/ann.phone"
    assert hand.get("<enabled xmlns='urn:xmpp:sm:3' id='s2' resume='true'/>", result(carbons)) == []
    outs = hand.get(in_room(f"{ROOM}/ann.phone"))
    assert [out for out in outs if type(out) is not bytes] == [Ready(), Sent("x:2"), Sent("x:5")]
    assert hand.get(handled(5)) == [Acked("x:2"), Acked("x:5")]


def test_session_without_resumption_begins_again():
    hand = Hand().connect().authenticate()
    *_, carbons = hand.bind()
    hand.get("<enabled xmlns='urn:xmpp:sm:3'/>", result(carbons))
    [bind] = lost(hand)
    assert b"xmpp-bind" in bind


def test_login_that_was_lost_is_continued_by_resumption():
    hand = Hand().connect().authenticate()
    *_, carbons = hand.bind()
    hand.get("<enabled xmlns='urn:xmpp:sm:3' id='s1' resume='true'/>", Disconnected("cut"))
    hand.tick()
    hand.get(Connected("xmpp"), features("PLAIN"), SUCCESS, bound_features())
    assert hand.get("<resumed xmlns='urn:xmpp:sm:3' h='0' previd='s1'/>")[-1] == carbons
    assert hand.get(result(carbons)) == [Ready()]


# --- rooms ------------------------------------------------------------------------------------------------------------


def test_new_room_is_unlocked_by_its_creator():
    hand = Hand().log_in()
    [join] = hand.session.join(TEAM, ["ann", "bob"], True, 0.0)
    assert attribute(join, "to") == f"{ROOM}/ann.phone"
    [form] = hand.get(in_room(f"{ROOM}/ann.phone", "201"))
    assert (
        b"<query xmlns='http://jabber.org/protocol/muc#owner'><x xmlns='jabber:x:data' type='submit'/></query>" in form
    )
    assert hand.get(result(form)) == [Joined(TEAM)]
    assert hand.session.join(TEAM, [], True, 0.0) == [Joined(TEAM)]
    assert hand.session.next_deadline() == 30.0, "the next heartbeat"


def test_room_of_archive_is_persistent():
    hand = Hand(resume="archive").log_in()
    hand.session.join(TEAM, [], True, 0.0)
    [form] = hand.get(in_room(f"{ROOM}/ann.phone", "201"))
    assert b"muc#roomconfig_persistentroom'><value>1<" in form


def test_refused_room_is_not_joined():
    hand = Hand().log_in()
    hand.session.join(TEAM, [], False, 0.0)
    refusal = (
        f"<presence xmlns='jabber:client' from='{ROOM}/ann.phone' type='error'>{error('service-unavailable', 'full')}"
    )
    assert hand.get(refusal + "</presence>") == [NotJoined(TEAM, "service-unavailable (full)")]
    assert hand.get(refusal + "</presence>") == []
    hand.session.join(LOBBY, [], True, 0.0)
    [form] = hand.get(in_room("chatroom.lobby@conference.localhost/ann.phone", "201"))
    assert hand.get(failed(form, "forbidden")) == [NotJoined(LOBBY, "the room was not created, forbidden")]


def test_room_that_is_locked_is_entered_again():
    """Another device has created it, and its configuration is on its way. Servers then say that there is no room."""
    hand = Hand().log_in()
    [join] = hand.session.join(TEAM, [], False, 0.0)
    locked = (
        f"<presence xmlns='jabber:client' from='{ROOM}/ann.phone' type='error'>{error('item-not-found')}</presence>"
    )
    assert hand.get(locked) == [join]
    assert hand.get(in_room(f"{ROOM}/ann.phone")) == [Joined(TEAM)]
    hand = Hand().log_in()
    hand.session.join(TEAM, [], False, 0.0)
    assert hand.get(*[locked] * 51)[-1] == NotJoined(TEAM, "item-not-found"), "it does not try forever"


def test_room_that_does_not_answer_is_not_joined():
    hand = Hand(login_timeout=2.0).log_in()
    hand.session.join(TEAM, [], False, 0.0)
    assert hand.session.join(TEAM, [], False, 0.0) == []
    assert hand.tick() == [NotJoined(TEAM, "no answer within 2 s")]
    assert hand.now == 2.0


def test_join_of_offline_device_follows_its_login():
    hand = Hand()
    assert hand.session.join(TEAM, [], False, 0.0) == []
    assert hand.session.join(BOB, [], False, 0.0) == [Joined(BOB)]
    hand.connect().authenticate()
    *_, join, carbons = hand.bind()
    assert hand.get(result(carbons)) == []
    assert hand.get(in_room(attribute(join, "to"))) == [Joined(TEAM), Ready()]


def test_reflection_and_other_occupants_are_not_deliveries():
    hand = Hand().log_in().enter()
    assert hand.get(message("x:1", f"{ROOM}/ann.phone", type="groupchat")) == []
    assert hand.get(message("x:2", f"{ROOM}/ann.laptop", type="groupchat")) == [Delivered("x:2", TEAM)]
    assert hand.get(message("x:3", f"{ROOM}/bob.phone", type="groupchat")) == [Delivered("x:3", TEAM)]
    assert hand.get(message("x:4", "other@conference.localhost/bob", type="groupchat")) == []
    assert hand.get(f"<presence xmlns='jabber:client' from='{ROOM}/bob.phone'/>") == []
    assert hand.get(message("s", ROOM, "<subject/>", "groupchat")) == []


def test_presence_of_other_occupants_does_not_end_a_join():
    hand = Hand().log_in()
    hand.session.join(TEAM, [], False, 0.0)
    assert hand.get(f"<presence xmlns='jabber:client' from='{ROOM}/bob.phone'/>") == []
    assert hand.get(in_room(f"{ROOM}/ann-2", "210")) == [Joined(TEAM)]
    assert hand.get(message("x:1", f"{ROOM}/ann-2", type="groupchat")) == [], "the room changed the nickname"


def test_removed_device_enters_room_at_next_login():
    hand = Hand().log_in().enter()
    gone = f"<presence xmlns='jabber:client' from='{ROOM}/ann.phone' type='unavailable'/>"
    assert hand.get(gone) == []
    [frame, *_] = hand.send(TEAM)
    assert b"type='groupchat'" in frame
    lost(hand)
    outs = hand.get("<resumed xmlns='urn:xmpp:sm:3' h='4' previd='s1'/>")
    assert Ready() not in outs
    assert Ready() in hand.get(in_room(f"{ROOM}/ann.phone"))


# --- archives ---------------------------------------------------------------------------------------------------------


def archived(place: str, *arguments: str, sender: str = "ann@localhost") -> str:
    one = f"<result xmlns='urn:xmpp:mam:2' id='{place}'>{forwarded(*arguments)}</result>"
    return f"<message xmlns='jabber:client' from='{sender}' to='ann@localhost/phone'>{one}</message>"


def page(request: bytes, last: str = "", complete: bool = True) -> str:
    text = f"<last>{last}</last>" if last else ""
    end = " complete='true'" if complete else ""
    return result(
        request, f"<fin xmlns='urn:xmpp:mam:2'{end}><set xmlns='http://jabber.org/protocol/rsm'>{text}</set></fin>"
    )


def stanza_id(place: str, by: str = "ann@localhost") -> str:
    return f"<body>hi</body><stanza-id xmlns='urn:xmpp:sid:0' by='{by}' id='{place}'/>"


def returned(hand: Hand) -> list[bytes]:
    """Stop and start the device. Return the archive requests after the login, of the user and then of its room."""
    hand.session.stop(hand.now)
    hand.connect().authenticate()
    outs = hand.bind()
    requests = [out for out in outs if b"urn:xmpp:mam:2" in out]
    assert Ready() not in hand.get("<enabled xmlns='urn:xmpp:sm:3' id='s2' resume='true'/>")
    ready = hand.get(result(outs[-1]))
    if Ready() not in ready:
        entered = hand.get(in_room(f"{ROOM}/ann.phone"))
        requests += [out for out in entered if type(out) is bytes and b"urn:xmpp:mam:2" in out]
        assert Ready() in entered
    return requests


def test_archive_brings_what_the_device_missed():
    hand = Hand(resume="archive").log_in()
    hand.get(message("x:1", content=stanza_id("p1")), message("x:2", content=stanza_id("p2", "eve@localhost")))
    [request] = returned(hand)
    assert b"<max>100</max><after>p1</after>" in request
    assert b" to=" not in request
    mine = ("ann@localhost/phone", "bob@localhost")
    outs = hand.get(
        archived("p2", "x:2", "bob@localhost/phone", "ann@localhost"),  # the device has it
        archived("p3", "x:3", "bob@localhost/phone", "ann@localhost"),
        archived("p4", "x:4", "ann@localhost/laptop", "bob@localhost"),
        archived("p5", "x:5", *mine),  # the device sent it
        archived("p6", "x:6", "bob@localhost/phone", "ann@localhost", "<body>hi</body>", "groupchat"),
        archived("p7", "x:7", "bob@localhost/phone", "ann@localhost", sender="eve@localhost"),
        archived("p8", "x:8", "bob@localhost/phone", "ann@localhost", "<subject/>"),
    )
    assert outs == [Delivered("x:3", ANN, synced=True), Delivered("x:4", BOB, synced=True)]
    [following] = hand.get(page(request, "p8", complete=False))
    assert b"<after>p8</after>" in following
    assert hand.get(page(following)) == []
    [again] = returned(hand)
    assert b"<after>p8</after>" in again


def test_live_message_does_not_hide_a_page_that_is_still_to_come():
    hand = Hand(resume="archive").log_in()
    hand.get(message("x:1", content=stanza_id("p1")))
    returned(hand)
    hand.get(message("x:9", content=stanza_id("p9")))
    [request] = returned(hand)
    assert b"<after>p1</after>" in request


def test_offline_storage_does_not_repeat_the_archive():
    hand = Hand(resume="archive").log_in()
    returned(hand)
    late = f"<body>hi</body>{DELAY}"
    assert hand.get(message("x:1", content=late)) == [Delivered("x:1", ANN, synced=True)]
    assert hand.get(archived("p1", "x:1", "bob@localhost/phone", "ann@localhost")) == []
    assert hand.get(archived("p2", "x:2", "bob@localhost/phone", "ann@localhost")) == [Delivered("x:2", ANN, True)]
    assert hand.get(message("x:2", content=late)) == []
    assert hand.get(message("x:2")) == [Delivered("x:2", ANN)], "a real duplicate"


def test_archived_message_that_requests_a_receipt_gets_one():
    hand = Hand(resume="archive").log_in()
    returned(hand)
    content = "<body>hi</body><request xmlns='urn:xmpp:receipts'/>"
    _, receipt = hand.get(archived("p1", "x:1", "bob@localhost/phone", "ann@localhost", content))
    assert b"to='bob@localhost/phone'><received" in receipt


def test_archive_of_a_room_is_read_when_the_device_is_back():
    hand = Hand(resume="archive").log_in().enter()
    hand.get(message("x:1", f"{ROOM}/bob.phone", stanza_id("r1", ROOM), "groupchat"))
    _, request = returned(hand)
    assert attribute(request, "to") == ROOM
    assert b"<after>r1</after>" in request
    outs = hand.get(
        archived("r2", "x:2", f"{ROOM}/bob.phone", ROOM, "<body>hi</body>", "groupchat", sender=ROOM),
        archived("r3", "x:3", f"{ROOM}/ann.phone", ROOM, "<body>hi</body>", "groupchat", sender=ROOM),
    )
    assert outs == [Delivered("x:2", TEAM, synced=True)]


def test_missing_archive_names_the_setting():
    hand = Hand(resume="archive").log_in()
    [request] = returned(hand)
    assert "resume=off" in reason(hand.get(failed(request, "service-unavailable")))


def test_memory_of_ids_is_bounded():
    hand = Hand(resume="archive").log_in()
    for number in range(5000):
        hand.get(message(f"x:{number}"))
    assert len(hand.session._archives._seen) == 4096
