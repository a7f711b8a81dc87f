"""Who watches the chatrooms."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imsim.core import frames, internal_frames
from imsim.core.model import Code, Message, Scene, Session, conversation_id, is_chatroom
from imsim.core.policies import Policies
from imsim.faultsearch.checks.limits import fits, written_in
from imsim.faultsearch.model.reference import same_words, wish_of
from imsim.faultsearch.model.rules import Laws, amended, is_change, judge_in_room
from imsim.faultsearch.model.view import wish_to_send

if TYPE_CHECKING:
    from imsim.faultsearch.checks.ongoing import Found
    from imsim.faultsearch.nodes import Instance


class Rooms:
    """A chatroom is heard only by those who are in it, and nothing of it comes again; what is taken back or edited is
    so for whoever comes later; a send is answered for what was said by it; and there are as many users in it as it says
    and may hold."""

    def __init__(self, laws: Laws, policies: Policies, instances: dict[str, Instance], found: Found) -> None:
        self.spoken: dict[str, Message] = {}  # by id, as it was said
        self._now: dict[str, dict[int, Message]] = defaultdict(dict)  # by room and seq, as it is by now
        self._remembered: dict[str, set[int]] = defaultdict(set)  # seqs, by room, since its router lives
        self._laws = laws
        self._policies = policies
        self._instances = instances
        self._found = found
        self._inside: set[tuple[str, str]] = set()  # (instance, room) of those who may hear it, as gateways see it
        #: (instance, room) -> the last `enter` or `leave` since its login: that it has sent, that came to its gateway
        self._last_sent: dict[tuple[str, str], frames.Enter | frames.Leave] = {}
        self._last_came: dict[tuple[str, str], frames.Enter | frames.Leave] = {}
        #: The same, all that came, in order, but for each `leave` that has had its answer.
        self._asked: dict[tuple[str, str], list[frames.Enter | frames.Leave]] = defaultdict(list)
        self._refused: set[tuple[str, str]] = set()  # (instance, room) where an `enter` was refused for good
        self._sent: set[tuple[str, str]] = set()  # (instance, id)
        self._latest: dict[str, int] = {}  # by room, the highest seq
        self.present: dict[str, set[Session]] = defaultdict(set)  # by room, who is in it, as its router sees it
        self._recent: dict[tuple[Session, str], int] = {}  # how much of the latest was asked for

    def left_client(self, instance: str, frame: object) -> None:
        if isinstance(frame, frames.Enter | frames.Leave):
            self._last_sent[instance, frame.name] = frame
        elif isinstance(frame, frames.Login):
            self._last_sent = {one: last for one, last in self._last_sent.items() if one[0] != instance}

    def reached_gateway(self, instance: str, frame: object) -> None:
        if isinstance(frame, frames.Enter):
            self._inside.add((instance, frame.name))
        if isinstance(frame, frames.Enter | frames.Leave):
            self._last_came[instance, frame.name] = frame
            self._asked[instance, frame.name].append(frame)
        elif isinstance(frame, frames.Login):
            self._inside = {one for one in self._inside if one[0] != instance}
            for one in [one for one in self._last_came if one[0] == instance]:
                del self._last_came[one], self._asked[one]
            self._refused = {one for one in self._refused if one[0] != instance}

    def left_gateway(self, instance: str, frame: object) -> None:
        if isinstance(frame, frames.Done) and frame.request == frames.Leave.op:
            if self._is_outside_since(self._asked[instance, frame.ref], frame.number):
                self._inside.discard((instance, frame.ref))
        elif isinstance(frame, frames.Rejected) and frame.request == frames.Enter.op and not frame.code.retryable:
            self._refused.add((instance, frame.ref))
        elif isinstance(frame, frames.Received) and frame.seq:
            sent = self._instances[instance].sent[frame.id_client]
            room = conversation_id(sent["scene"], "", sent["to"])
            said = self.spoken[f"{room}:{frame.seq}"]
            if said.id_client != frame.id_client or not (self._now[room][frame.seq].amended or same_words(said, sent)):
                self._tell("rooms_answer_for_what_was_said", f"{frame.id_client} on {instance} was answered for {said}")
        elif isinstance(frame, frames.Push) and is_chatroom(frame.message.conversation_id):
            message = frame.message
            if (instance, message.to) not in self._inside:
                self._tell("rooms_are_for_those_inside", f"{message.id} went to {instance}")
            if (instance, message.id) in self._sent:
                self._tell("rooms_say_it_once", f"{message.id} went to {instance} again")
            if self.spoken.get(message.id) != message:
                self._tell("rooms_say_it_once", f"{message.id} went to {instance} and was never said so")
            self._sent.add((instance, message.id))

    @staticmethod
    def _is_outside_since(asked: list[frames.Enter | frames.Leave], number: int) -> bool:
        """Whether no `enter` came to the gateway after the `leave` of this number that is answered now: the first that
        has had no answer, for an `enter` that was held up may have come before its repetition."""
        at = next((n for n, one in enumerate(asked) if isinstance(one, frames.Leave) and one.number == number), None)
        if at is None:
            return False
        del asked[at]
        return not any(isinstance(one, frames.Enter) for one in asked[at:])

    # --- at the room's router ---

    def reached_router(self, frame: object) -> None:
        if isinstance(frame, internal_frames.Up) and isinstance(frame.frame, frames.Enter):
            self._recent[frame.session, frame.frame.name] = frame.frame.recent
        elif isinstance(frame, internal_frames.Up) and isinstance(frame.frame, frames.Leave):
            self._leaves(frame.conversation_id, {frame.session})

    def told(self, down: internal_frames.Down) -> None:
        """A router lets somebody in: what it shows is what there is, the latest of it, as much as was asked for."""
        frame = down.frame
        if isinstance(frame, frames.Entered):
            self._let_in(down.sessions[0], frame)
        elif isinstance(frame, frames.Rejected) and frame.request == frames.Enter.op and frame.code == Code.TOO_LARGE:
            users = self._users(conversation_id(Scene.CHATROOM, "", frame.ref))
            if len(users) < self._policies.room_size or down.sessions[0].user in users:
                self._tell("rooms_hold_as_many_as_they_may", f"{down.sessions[0]} was kept out of {frame.ref}: {users}")
        elif isinstance(frame, frames.Push) and is_chatroom(frame.message.conversation_id):
            for session in {*down.sessions} - self.present[frame.message.conversation_id]:
                self._tell("rooms_are_for_those_inside", f"{frame.message.id} was for {session}")

    def _leaves(self, room: str, sessions: set[Session]) -> None:
        """A room that all have left is gone, with what was said in it."""
        self.present[room] -= sessions
        if not self.present[room]:
            self._remembered[room].clear()

    def _let_in(self, session: Session, frame: frames.Entered) -> None:
        room = conversation_id(Scene.CHATROOM, "", frame.name)
        there = self._remembered[room]
        for message in frame.messages:
            if message != self._now[room].get(message.seq):
                self._tell("rooms_show_what_is_left", f"{message.id} was shown as {message}")
        count = max(0, min(self._recent.get((session, frame.name), 0), self._policies.room_recent))
        before, latest = sorted(there), list[int]()
        for _ in frame.messages:
            latest[:0] = [before.pop()] if before else []
        sizes = [written_in(message) for message in frame.messages]
        is_fit = len(frame.messages) <= count and fits(sizes, self._policies.page_bytes)
        if before and len(sizes) < count:  # else there was no room for the one before them
            is_fit &= not fits([written_in(self._now[room][before[-1]]), *sizes], self._policies.page_bytes)
        if [message.seq for message in frame.messages] != latest or not is_fit:
            self._tell("rooms_show_what_is_left", f"{session} asked for {count} and was shown {frame}, not {latest}")
        self.present[room].add(session)
        users = self._users(room)
        if frame.users != len(users) or frame.users > self._policies.room_size:
            text = f"{frame.name} had {frame.users} users by {session}: {sorted(users)}"
            self._tell("rooms_hold_as_many_as_they_may", text)

    def _users(self, room: str) -> set[str]:
        return {session.user for session in self.present[room]}

    def lost(self, owns: Callable[[str], bool], gateway: str | None = None) -> None:
        """The router that owns these was lost, and where they begin anew they count from what the time is there; or it
        has heard that this gateway was."""
        if gateway is None:
            self._latest = {room: seq for room, seq in self._latest.items() if not owns(room)}
            self._remembered = defaultdict(
                set, {room: seqs for room, seqs in self._remembered.items() if not owns(room)}
            )
        for room, present in self.present.items():
            if owns(room):
                self._leaves(room, {one for one in present if gateway is None or one.gateway == gateway})

    # --- when all has come to rest ---

    def rests(self, instance: str, wished: Iterable[str], connection: int) -> None:
        """Who wants to be in a room is there by the connection that they have now; and nobody else."""
        inside = {
            room.partition(":")[2]
            for room, present in self.present.items()
            if any(session.connection == connection for session in present)
        }
        for room in sorted(inside.symmetric_difference(wished)):
            # Left out: a network that lets frames overtake each other may have turned an `enter` and a `leave` round;
            # and who was refused may have asked twice, and been let in by the second, as somebody else had gone.
            is_turned = self._last_sent.get((instance, room)) != self._last_came.get((instance, room))
            if not is_turned and not (room in inside and (instance, room) in self._refused):
                text = f"{instance} is {'' if room in inside else 'not '}in the room {room}, and wants it otherwise"
                self._tell("rooms_hold_who_wants_to_be_there", text)

    # --- what is said ---

    def refusals(self, user: str, room: str, sent: Mapping[str, Any]) -> set[str]:
        """The codes with which this send may have been refused by now."""
        wish, codes = wish_to_send(user, dict(sent)), set()
        if is_change(wish):
            codes.add("bad_request")  # the room need not remember it, nor be the one that it was
            target = self._now[room].get(wish.data.get("seq", 0))
            for time in (0, 1 << 60) if target else ():
                codes |= judge_in_room(replace(wish, time=time), target, self._laws).reasons
        for said in self.spoken.values():
            if (said.conversation_id, said.sender, said.id_client) == (room, user, sent["id"]):
                codes |= set() if same_words(said, sent) else {"conflict"}
        return codes

    def said(self, message: Message) -> bool:
        """Returns whether it is the first since the room began."""
        self.spoken[message.id] = message
        room, wish = message.conversation_id, wish_of(message)
        there = self._now[room]
        outcome = judge_in_room(wish, there.get(wish.data.get("seq", 0)), self._laws)
        if outcome.reasons:
            self._tell("only_what_is_allowed_is_said", f"{message.id} of {message.sender}: {sorted(outcome.reasons)}")
        if len(message.content.encode()) > self._policies.content_bytes:
            self._tell("only_what_is_allowed_is_said", f"{message.id} of {message.sender} is too long")
        if outcome.amended is not None:
            there.update((one.seq, one) for one in amended(list(there.values()), outcome.amended, message.seq))
        remembered = (there[seq] for seq in self._remembered[room])
        if any((one.sender, one.id_client) == (message.sender, message.id_client) for one in remembered):
            self._tell("rooms_say_it_once", f"{message.id} says {message.id_client} of {message.sender} again")
        there[message.seq] = message
        is_first = not self._remembered[room]
        self._remembered[room].add(message.seq)
        if message.seq <= self._latest.get(room, 0):
            self._tell("rooms_count_upwards", f"{message.id} came after {self._latest[room]}")
        self._latest[room] = message.seq
        return is_first

    def _tell(self, invariant: str, text: str) -> None:
        self._found.append((invariant, text))
