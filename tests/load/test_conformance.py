"""The conformance kit: a correct adapter passes, and each check finds the faults that it is for."""

from __future__ import annotations

import importlib.metadata
import json
import threading

import pytest
from load.chat import ChatAdapter, ChatServer, ChatSession, in_thread, running
from load.servers import mosquitto

from imsim.core.exceptions import RunError, UsageError
from imsim.core.policies import Policies
from imsim.live import MemoryStore, Server
from imsim.load.adapters import (
    Acked,
    Closed,
    Connected,
    Delivered,
    Disconnect,
    Failed,
    Feature,
    Joined,
    NotJoined,
    Offline,
    Read,
    Ready,
    Request,
    Target,
    find,
)
from imsim.load.adapters.imsim import ImsimAdapter
from imsim.load.conformance import CHECKS, Outcome, Report, Result, check, checked

QUICK = Policies(login_timeout=1.0, send_timeout=0.1, send_attempts=1, reconnect_min=0.02, reconnect_max=0.1)
PATIENCE = 0.6

#: For adapters without a fault, which a busy machine must not fail.
PEER = Policies(login_timeout=1.0, send_timeout=1.0, reconnect_min=0.02, reconnect_max=0.1)


def adapter_of(session: type[ChatSession], *without: Feature) -> type[ChatAdapter]:
    members = {"made": session, "features": ChatAdapter.features - set(without)}
    return type("TestedAdapter", (ChatAdapter,), members)


async def report_of(session: type[ChatSession], *only: str, without=(), server=None, fails=False) -> Report:
    """Run checks: all of them, or some. Those that must fail get little time."""
    async with running(server) as server:
        target = Target(server.url, policies=QUICK if fails else PEER)
        patience = PATIENCE if fails else 5.0
        return await checked(adapter_of(session, *without), target, only=only, patience=patience)


async def failure_of(session: type[ChatSession], name: str, *, without=(), server=None) -> str:
    """Run one check, which must fail. Return its detail."""
    report = await report_of(session, name, without=without, server=server, fails=True)
    assert not report.passed
    assert report[name].outcome is Outcome.FAILED, report
    return report[name].detail


async def test_correct_adapter_passes_all_checks():
    report = await report_of(ChatSession)
    assert report.passed, str(report)
    assert [one.name for one in report.results] == list(CHECKS)
    offered = {one.name for one in report.results if one.outcome is Outcome.OK}
    assert offered == set(CHECKS) - {"types"}


async def test_features_that_are_not_claimed_are_not_offered():
    class Plain(ChatSession):
        def got_ack(self, frame, now):
            self.waiting.pop(frame["id"], None)
            return []

    report = await report_of(Plain, without=set(Feature))
    assert report.passed, str(report)
    assert {one.name for one in report.results if one.outcome is Outcome.NOT_OFFERED} == {
        name for name, one in CHECKS.items() if one.feature
    }


async def test_adapter_that_sends_each_message_once_passes_without_resume():
    class Forgetful(ChatSession):
        """Every login is the first one, and a message without an answer has failed when the connection ends."""

        def received(self, item, now):
            if isinstance(item, Connected):
                return [self.frame(op="login", user=self.user, device=self.device, since=10**6)]
            return super().received(item, now)

        def lost(self, reason, now):
            failed = [Failed(id, "timeout") for id in self.waiting]
            self.waiting.clear()
            return [*failed, *super().lost(reason, now)]

    report = await report_of(Forgetful, "loss", "reconnect", without={Feature.RESUME})
    assert report.passed, str(report)
    assert "0 of 4 reach" in report["loss"].detail
    assert "message lost, answer lost, sent" in report["loss"].detail


async def test_adapter_of_imsim_passes_all_checks():
    server = Server(Policies(), MemoryStore(), key="imsim")
    await server.start()
    try:
        report = await checked(ImsimAdapter, Target(server.url, "imsim", policies=PEER))
    finally:
        await server.stop()
    assert report.passed, str(report)
    assert {one.outcome for one in report.results} == {Outcome.OK}
    assert report.server == {"name": "imsim", "version": importlib.metadata.version("imsim"), "shed": 0}


def test_adapter_of_mqtt_passes(tmp_path):
    with mosquitto(tmp_path) as server:
        target = Target(f"ws://127.0.0.1:{server.port}", policies=PEER, options={"qos": "1"})
        only = ["two users", "groups", "resume", "loss", "duplicates", "garbage"]  # the quick ones of most value
        report = check(find("mqtt"), target, only=only)
    assert report.passed, str(report)


# --- faults that each check finds -------------------------------------------------------------------------------------


async def test_login_without_ready_fails_and_ends_the_checks():
    class Silent(ChatSession):
        def got_ready(self, frame, now):
            return []

    report = await report_of(Silent, fails=True)
    assert report["login"].detail.startswith("no Ready after the login within 0.6 s (")
    assert {one.outcome for one in report.results[1:]} == {Outcome.NOT_RUN}
    assert not report.passed


async def test_refused_login_shows_reason():
    class Refused(ChatSession):
        def got_ready(self, frame, now):
            return self.broken("you are banned")

    assert "has closed: you are banned" in await failure_of(Refused, "login")


async def test_login_with_two_ready_fails():
    class Twice(ChatSession):
        def got_ready(self, frame, now):
            return [Ready(), Ready()]

    assert "one login gave 2 Ready" in await failure_of(Twice, "login")


async def test_echo_finds_wrong_id():
    class WrongId(ChatSession):
        def got_message(self, frame, now):
            return super().got_message(frame | {"id": frame["n"]}, now)

    detail = await failure_of(WrongId, "echo")
    assert "it returned the ids ['1']; a frame of the server contains the id" in detail


async def test_echo_finds_message_that_does_not_arrive():
    class Mute(ChatSession):
        def send(self, message, now):
            return []

    detail = await failure_of(Mute, "echo")
    assert detail.startswith("no Delivered(")
    assert "its last event is Ready()" in detail


async def test_echo_finds_wrong_conversation():
    class Elsewhere(ChatSession):
        def got_message(self, frame, now):
            return super().got_message(frame | {"to": "nobody"}, now)

    assert "was delivered in p2p nobody" in await failure_of(Elsewhere, "echo")


async def test_echo_finds_wrong_sender():
    class Impostor(ChatSession):
        def got_message(self, frame, now):
            return super().got_message(frame | {"from": "nobody"}, now)

    assert "was delivered as one of nobody" in await failure_of(Impostor, "echo")


async def test_echo_finds_delivery_at_sender():
    class Charged(ChatSession):
        def got_ack(self, frame, now):
            return [*super().got_ack(frame, now), Delivered(frame["id"])]

    assert "but it is the sending device" in await failure_of(Charged, "echo")


async def test_two_users_finds_changed_order():
    class Backwards(ChatSession):
        held = ()

        def got_message(self, frame, now):
            (event,) = super().got_message(frame, now)
            if not self.held:
                self.held = (event,)
                return []
            held, self.held = self.held, ()
            return [event, *held]

    assert "keep the order" in (await failure_of(Backwards, "two users")).lower()


async def test_two_users_finds_repetition():
    class Double(ChatSession):
        def got_message(self, frame, now):
            return super().got_message(frame, now) * 2

    assert "more than once" in await failure_of(Double, "two users")


async def test_two_users_finds_one_message_at_a_time():
    class OneAtATime(ChatSession):
        def send(self, message, now):
            return super().send(message, now) if not self.waiting else []

    assert "no Delivered" in await failure_of(OneAtATime, "two users")


@pytest.mark.parametrize("part", ["large", "other scripts", "markup", "longest id"])
async def test_texts_finds_what_the_adapter_cannot_send(part):
    class Narrow(ChatSession):
        def send(self, message, now):
            faults = {
                "large": len(message.text) > 10_000,
                "other scripts": not message.text.isascii(),
                "markup": "<" in message.text,
                "longest id": len(message.id) > 50,
            }
            return [] if faults[part] else super().send(message, now)

    assert part.split()[0] in await failure_of(Narrow, "texts") or part == "longest id"


async def test_texts_finds_exception():
    class Ascii(ChatSession):
        def send(self, message, now):
            message.text.encode("ascii")
            return super().send(message, now)

    assert "the session raised UnicodeEncodeError" in await failure_of(Ascii, "texts")


async def test_acks_finds_swallowed_ack():
    class Swallowing(ChatSession):
        def got_ack(self, frame, now):
            super().got_ack(frame, now)
            return []

    assert "neither Acked(" in await failure_of(Swallowing, "acks")


async def test_acks_finds_wrong_id():
    class Wrong(ChatSession):
        def got_ack(self, frame, now):
            return [*super().got_ack(frame, now), Acked("another")]

    assert "Acked('another') for a message that was not sent" in await failure_of(Wrong, "acks")


async def test_acks_finds_ack_without_server():
    class Hopeful(ChatSession):
        def send(self, message, now):
            return [*super().send(message, now), Acked(message.id)]

    assert "did not reach the server" in await failure_of(Hopeful, "acks")


async def test_acks_finds_ack_of_recipient():
    class Confused(ChatSession):
        def got_message(self, frame, now):
            return [*super().got_message(frame, now), Acked(frame["id"])]

    assert "the recipient returned Acked" in await failure_of(Confused, "acks")


async def test_acks_finds_failure():
    class Failing(ChatSession):
        def got_ack(self, frame, now):
            return [Failed(frame["id"], "timeout")]

    assert "for a message that the server should accept" in await failure_of(Failing, "acks")


async def test_refused_message_shows_code():
    class Failing(ChatSession):
        def got_ack(self, frame, now):
            return [Failed(frame["id"], "forbidden", "not friends")]

    assert "forbidden: not friends" in await failure_of(Failing, "receipts")


@pytest.mark.parametrize(("feature", "check"), [(Feature.ACK, "acks"), (Feature.RECEIPTS, "receipts")])
async def test_events_of_a_feature_that_is_not_claimed_are_found(feature, check):
    class Reading(ChatSession):
        def got_message(self, frame, now):
            return [*super().got_message(frame, now), Read(frame["id"])]

    report = await report_of(Reading, "echo", check, without={feature})
    assert "was returned without the feature" in report[check].detail
    assert report[check].outcome is Outcome.FAILED


@pytest.mark.parametrize("name", ["groups", "chatrooms"])
class TestGroups:
    async def test_join_without_answer_is_found(self, name):
        class Silent(ChatSession):
            def got_joined(self, frame, now):
                return []

        assert "no Joined(" in await failure_of(Silent, name)

    async def test_refused_join_is_found(self, name):
        class Refused(ChatSession):
            def got_joined(self, frame, now):
                return [NotJoined(event.conversation, "full") for event in super().got_joined(frame, now)]

        assert "full" in await failure_of(Refused, name)

    async def test_reflection_to_sender_is_found(self, name):
        class Reflected(ChatSession):
            def got_ack(self, frame, now):
                return [*super().got_ack(frame, now), Delivered(frame["id"])]

        assert "also if the server reflects it" in await failure_of(Reflected, name)

    async def test_message_to_other_users_is_found(self, name):
        class Broadcasting(ChatServer):
            async def do_send(self, me, socket, frame):
                await super().do_send(me, socket, frame)
                for (user, _), other in list(self.devices.items()):
                    if "dave" in user:
                        await self.put(other, op="message", n=0, **{k: frame[k] for k in ("id", "scene", "to", "text")})

        assert "the user has not joined" in await failure_of(ChatSession, name, server=Broadcasting())

    async def test_missing_message_is_found(self, name):
        class Partly(ChatSession):
            def got_message(self, frame, now):
                return [] if "carol" in self.user else super().got_message(frame, now)

        assert "carol" in await failure_of(Partly, name)


async def test_chatrooms_finds_room_that_is_lost_with_the_connection():
    class Outside(ChatSession):
        def lost(self, reason, now):
            self.rooms.clear()
            return super().lost(reason, now)

        def join(self, conversation, members, creates, now):
            return [Joined(conversation)] if self.failures else super().join(conversation, members, creates, now)

        def got_ready(self, frame, now):
            failures = self.failures
            outs = super().got_ready(frame, now)
            self.failures = failures
            return outs

    assert "no Delivered" in await failure_of(Outside, "chatrooms")


async def test_own_devices_finds_deaf_device():
    class Deaf(ChatSession):
        def got_message(self, frame, now):
            return [] if frame["from"] == self.user else super().got_message(frame, now)

    assert "laptop" in await failure_of(Deaf, "own devices")


async def test_types_finds_message_that_is_not_sent():
    class TextOnly(ChatSession):
        def send(self, message, now):
            return super().send(message, now) if message.type == "text" else []

    class Claiming(ChatAdapter):
        made = TextOnly
        features = ChatAdapter.features | {Feature.TYPES}

    async with running() as server:
        report = await checked(Claiming, Target(server.url, policies=QUICK), only=["types"], patience=PATIENCE)
        assert "no Delivered" in report["types"].detail


async def test_receipts_finds_missing_and_early_read():
    class Silent(ChatSession):
        def read(self, conversation, id, now):
            return []

    class Early(ChatSession):
        def got_message(self, frame, now):
            return [*super().got_message(frame, now), Read(frame["id"])]

    assert "no Read(" in await failure_of(Silent, "receipts")
    assert "before the call of `read`" in await failure_of(Early, "receipts")


class WithoutResume(ChatSession):
    """Every login names the latest messages as known."""

    def received(self, item, now):
        if isinstance(item, Connected):
            return [self.frame(op="login", user=self.user, device=self.device, since=10**6)]
        return super().received(item, now)


@pytest.mark.parametrize("check", ["resume", "loss"])
async def test_false_claim_of_resume_is_found(check):
    assert "leave Feature.RESUME out" in await failure_of(WithoutResume, check)


async def test_false_claim_of_membership_is_found():
    assert "Leave Feature.MEMBERSHIP out" in await failure_of(WithoutResume, "membership")


async def test_resume_finds_repetitions():
    class Double(ChatSession):
        def got_message(self, frame, now):
            return super().got_message(frame, now) * (2 if frame.get("synced") else 1)

    assert "more than once" in await failure_of(Double, "resume")


async def test_loss_finds_message_that_is_neither_acked_nor_failed():
    class Forgetful(ChatSession):
        def lost(self, reason, now):
            self.waiting.clear()
            return super().lost(reason, now)

    detail = await failure_of(Forgetful, "loss")
    assert detail.startswith("a message was lost with the connection: neither Acked(")


async def test_loss_finds_acknowledged_message_that_is_lost():
    class Lying(ChatSession):
        def lost(self, reason, now):
            acks = [Acked(id) for id in self.waiting]
            self.waiting.clear()
            return [*acks, *super().lost(reason, now)]

    assert "although it is acknowledged" in await failure_of(Lying, "loss")


class Forgiving(ChatServer):
    """A server that does not recognize repetitions."""

    async def do_send(self, me, socket, frame):
        self.accepted.discard(frame["id"])
        await super().do_send(me, socket, frame)


async def test_loss_finds_suppressed_duplicate():
    class Suppressing(ChatSession):
        def got_message(self, frame, now):
            self.seen = getattr(self, "seen", set())
            known = frame["id"] in self.seen
            self.seen.add(frame["id"])
            return [] if known else super().got_message(frame, now)

    report = await report_of(ChatSession, "loss", server=Forgiving())
    assert report.passed, str(report)
    assert "answer repaired, a duplicate" in report["loss"].detail
    assert "report repetitions" in (await failure_of(Suppressing, "loss", server=Forgiving())).lower()


async def test_duplicates_may_be_reported_or_suppressed():
    class Suppressing(ChatSession):
        def got_message(self, frame, now):
            known = frame["n"] <= self.since
            return [] if known else super().got_message(frame, now)

    report = await report_of(Suppressing, "duplicates")
    assert report.passed
    assert report["duplicates"].detail.startswith("0 of 3 repetitions")
    assert (await report_of(ChatSession, "duplicates"))["duplicates"].detail.startswith("3 of 3")


async def test_duplicates_finds_exception():
    class Strict(ChatSession):
        def got_message(self, frame, now):
            if frame["n"] <= self.since:
                raise ArithmeticError("the numbers must rise")
            return super().got_message(frame, now)

    detail = await failure_of(Strict, "duplicates")
    assert "the session raised ArithmeticError: the numbers must rise (in got_message, test_conformance.py:" in detail


async def test_duplicates_finds_session_that_closes():
    class Closing(ChatSession):
        def got_message(self, frame, now):
            return self.broken("a repetition") if frame["n"] <= self.since else super().got_message(frame, now)

    assert "has ended the session: a repetition" in await failure_of(Closing, "duplicates")


async def test_duplicates_finds_lost_ack():
    class Choosy(ChatSession):
        """Two acks of the same message contradict each other."""

        def got_ack(self, frame, now):
            return [] if frame["id"] not in self.waiting else [Offline("?"), *super().got_ack(frame, now)]

    class Late(ChatSession):
        def got_ack(self, frame, now):
            known = getattr(self, "last", "")
            self.last = frame["id"]
            return super().got_ack(frame, now) if known != frame["id"] and known.endswith("0") else []

    assert "has ended the session" in await failure_of(Choosy, "duplicates")
    assert "Acked(" in await failure_of(Late, "duplicates")


async def test_duplicates_finds_both_dropped():
    class Deaf(ChatSession):
        """A repetition makes the session drop everything."""

        broken_off = False

        def got_message(self, frame, now):
            self.broken_off |= frame["n"] <= self.since
            return [] if self.broken_off else super().got_message(frame, now)

    assert "no Delivered" in await failure_of(Deaf, "duplicates")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"lost": lambda self, reason, now: []}, "no Offline"),
        ({"lost": lambda self, reason, now: [Offline(reason)]}, "no Ready"),
        ({"lost": lambda self, reason, now: self.broken(reason)}, "has closed"),
        ({"lost": lambda self, reason, now: [Offline(reason), *self.start(now)]}, "connects again at once"),
    ],
    ids=["no Offline", "no reconnection", "closed", "at once"],
)
async def test_reconnect_finds(fault, text):
    assert text in await failure_of(type("Broken", (ChatSession,), fault), "reconnect")


async def test_reconnect_finds_attempt_without_offline():
    class Quiet(ChatSession):
        def lost(self, reason, now):
            outs = super().lost(reason, now)
            return outs if self.failures == 1 else []

    assert "times without connection gave" in await failure_of(Quiet, "reconnect")


async def test_silence_finds_login_without_deadline():
    class Patient(ChatSession):
        def start(self, now):
            outs = super().start(now)
            self.deadline = None
            return outs

    assert "does not answer the login" in await failure_of(Patient, "silence")


async def test_stop_finds_reconnection():
    class Restless(ChatSession):
        def stop(self, now):
            outs = super().stop(now)
            self.deadline = now + 0.02
            return outs

    class Later(ChatSession):
        def stop(self, now):
            outs = super().stop(now)
            self.deadline = now + 60
            return outs

    class Waiting(ChatSession):
        def stop(self, now):
            return []

    assert "connects again after `stop`" in await failure_of(Restless, "stop")
    assert "a timer acts after `stop`" in await failure_of(Later, "stop")
    assert not (await report_of(Waiting, "stop", fails=True)).passed


async def test_stop_finds_session_that_does_not_start_again():
    class Once(ChatSession):
        starts = 0

        def start(self, now):
            self.starts += 1
            return super().start(now) if self.starts == 1 else []

    assert "no Ready" in await failure_of(Once, "stop")


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        ({"handle_timer": lambda self, now: []}, "remains in the past"),
        ({"next_deadline": lambda self: None}, "next_deadline() is None"),
        ({"lost": lambda self, reason, now: [Offline(reason), *self.start(now)]}, "attempts to connect within 0 s"),
        ({"lost": lambda self, reason, now: self.broken(reason)}, "closes when it cannot connect"),
        ({"handle_timer": lambda self, now: ["text"]}, "the session returned 'text'"),
        ({"handle_timer": lambda self, now: 1 / 0}, "ZeroDivisionError"),
        ({"stop": lambda self, now: [Disconnect()]}, "a timer acts after `stop`"),
    ],
    ids=["spinning", "no deadline", "at once", "closed", "not an out", "exception", "after stop"],
)
async def test_timers_finds(fault, text):
    assert text in await failure_of(type("Broken", (ChatSession,), fault), "timers")


@pytest.mark.parametrize("copied", [True, False])
async def test_garbage_finds_exception(copied):
    class Trusting(ChatSession):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            if not copied:
                self.lock = threading.Lock()

        def received(self, item, now):
            if isinstance(item, bytes):
                return getattr(self, "got_" + json.loads(item)["op"])(json.loads(item), now)
            return super().received(item, now)

    detail = await failure_of(Trusting, "garbage")
    assert "the session raised JSONDecodeError" in detail
    assert "for the input b'' before the connection" in detail


async def test_garbage_uses_changed_frames_of_the_server():
    class HalfTrusting(ChatSession):
        """Only invalid members of valid objects are dangerous."""

        def received(self, item, now):
            outs = super().received(item, now)
            if isinstance(item, bytes) and b'"message"' in item and isinstance(outs[-1], Closed):
                raise KeyError("n")
            return outs

    report = await report_of(HalfTrusting, "echo", "two users", "garbage")
    assert "the session raised KeyError: 'n'" in report["garbage"].detail


async def test_garbage_finds_connection_after_closed():
    class Stubborn(ChatSession):
        def broken(self, reason):
            return [*self.start(0.0), Closed(reason)]

    assert "connects again after Closed" in await failure_of(Stubborn, "garbage")


async def test_session_that_cannot_be_copied_passes():
    class Locked(ChatSession):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.lock = threading.Lock()

    report = await report_of(Locked, "echo", "duplicates", "garbage")
    assert report.passed, str(report)
    assert report["duplicates"].detail.startswith("3 of 3")
    assert "cannot be copied" in report["garbage"].detail


# --- the run and its report -------------------------------------------------------------------------------------------


async def test_probe_is_made_first():
    class Probed(ChatAdapter):
        def probe(self):
            return Request("GET", "http://127.0.0.1:1/", ref="p")

        def probed(self, response):
            assert response.ref == "p"
            if self.target.key == "refuse":
                raise RunError("no server there")
            return {"version": 3}

    async with running() as server:
        target = Target(server.url, policies=QUICK)
        assert (await checked(Probed, target, only=["login"])).server == {"version": 3}
        with pytest.raises(RunError, match="no server there"):
            await checked(Probed, Target(server.url, key="refuse"))


async def test_exceptions_of_adapter_are_errors():
    class Raising(ChatAdapter):
        def __init__(self, target):
            raise KeyError("port")

    class RaisingSession(ChatAdapter):
        def session(self, number, user, device):
            raise KeyError("user")

    with pytest.raises(RunError, match=r"Raising: raised KeyError: 'port' \(in __init__, test_conformance.py:"):
        await checked(Raising, Target(""))
    report = await checked(RaisingSession, Target(""))
    assert "`session` must not raise" in report["login"].detail


async def test_methods_that_return_no_list_or_no_event_are_found():
    class Nothing(ChatSession):
        def got_ready(self, frame, now):
            return None

    class Text(ChatSession):
        def got_ready(self, frame, now):
            return ["ready"]

    assert "returned None; it must return a list" in await failure_of(Nothing, "login")
    assert "returned 'ready', which is not a frame" in await failure_of(Text, "login")


def test_check_runs_outside_of_an_event_loop():
    seen = []
    with in_thread() as server:
        report = check(ChatAdapter, Target(server.url, policies=QUICK), only=["echo", "login"], progress=seen.append)
    assert report.passed
    assert [report.results[-1].name for report in seen] == ["login", "echo"]


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="check nonsense: unknown name; the checks are login, echo"):
        check(ChatAdapter, Target(""), only=["nonsense"])
    with pytest.raises(UsageError, match="option size: unknown name; ChatAdapter has these options: colour"):
        check(ChatAdapter, Target("", options={"size": "1"}))


def test_report_is_a_table():
    results = (
        Result("login", Outcome.OK),
        Result("echo", Outcome.FAILED, "no Delivered('x:1') within 5 s. " + "Return Delivered for each message. " * 3),
        Result("acks", Outcome.NOT_OFFERED),
    )
    report = Report("MyAdapter", "ws://host", ("groups",), results)
    table = [
        "MyAdapter at ws://host: groups",
        "login        ok",
        "echo         failed       no Delivered('x:1') within 5 s. Return Delivered for each message. Return",
        "                          Delivered for each message. Return Delivered for each message.",
        "acks         not offered",
        "1 ok, 1 failed, 1 not offered",
    ]
    assert str(report).splitlines() == table
    assert not report.passed
    assert report.to_json()["checks"][1]["outcome"] == "failed"
    assert json.loads(json.dumps(report.to_json()))["passed"] is False


# --- the commands -----------------------------------------------------------------------------------------------------


ADAPTER = "load.chat:ChatAdapter"


def test_command_prints_table_and_exits_with_0(command):
    with in_thread() as server:
        only = [f"--only={name}" for name in ("login", "echo", "types")]
        result = command("adapter", "check", ADAPTER, "--url", server.url, "--option", "colour=red", *only)
    assert result.returncode == 0, result.stderr
    assert result.stdout.splitlines() == [
        f"ChatAdapter at {server.url}: ack, chatrooms, groups, membership, own devices, receipts, resume",
        "login        ok",
        "echo         ok           one message and its answer",
        "types        not offered",
        "2 ok, 0 failed, 1 not offered",
    ]


def test_command_prints_json(command):
    with in_thread() as server:
        result = command("adapter", "check", ADAPTER, "--url", server.url, "--only", "echo", "--json")
    report = json.loads(result.stdout)
    assert (report["adapter"], report["passed"]) == ("ChatAdapter", True)
    assert [(one["name"], one["outcome"]) for one in report["checks"]] == [("echo", "ok")]


def test_command_exits_with_1_after_a_failure(command):
    arguments = ("--url", "ws://127.0.0.1:1", "--patience", "0.3", "--only", "login")
    result = command("adapter", "check", ADAPTER, *arguments)
    assert result.returncode == 1
    assert "no Ready after the login within 0.3 s" in result.stdout
    assert "Connection refused" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((ADAPTER, "--url=ws://h", "--option=colour"), "--option: must be NAME=VALUE (got 'colour')"),
        ((ADAPTER, "--url=ws://h", "--option=size=1"), "option size: unknown name"),
        ((ADAPTER, "--url=ws://h", "--only=x"), "check x: unknown name"),
        ((ADAPTER,), "Missing option '--url'"),
        (("nonsense", "--url=ws://h"), "adapter: unknown name 'nonsense'"),
        (("missing.py", "--url=ws://h"), "adapter: there is no file missing.py"),
    ],
)
def test_command_exits_with_2_for_wrong_usage(command, arguments, text):
    result = command("adapter", "check", *arguments)
    assert result.returncode == 2
    assert text in result.stderr


def test_list_names_the_adapters(command):
    result = command("adapter", "list")
    assert result.returncode == 0
    names = [line.split()[0] for line in result.stdout.splitlines() if not line.startswith(" ")]
    assert names == ["imsim", "mqtt", "socketio", "websocket", "xmpp"]
    assert list(json.loads(command("adapter", "list", "--json").stdout)["adapters"]) == names
