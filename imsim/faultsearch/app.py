"""The application on a device, and the actions of its user."""

from __future__ import annotations

from typing import Any

from imsim.core import events, frames
from imsim.core.model import Code, Scene, Status, conversation_id
from imsim.faultsearch.case import Step
from imsim.faultsearch.entries import Crashed, Stepped
from imsim.faultsearch.nodes import Instance
from imsim.faultsearch.surroundings import Surroundings

#: Codes after which an application requests a new token.
_WANT_TOKEN = (Code.BAD_TOKEN, Code.TOKEN_EXPIRED, Code.TOKEN_REVOKED)


class App:
    """An application: it runs one instance of the client at a time, or two if the same device logs in twice. It keeps
    its token across crashes."""

    def __init__(self, world: Surroundings, key: str, number: int) -> None:
        self.key = key
        self.user, self.device = key.split("/")
        self.instances: list[Instance] = []
        self.token = world.new_token(self.user)
        self._world = world
        self._number = number

    @property
    def current(self) -> Instance:
        return self.instances[-1]

    @property
    def live(self) -> list[Instance]:
        return [instance for instance in self.instances if instance.is_live]

    @property
    def is_up(self) -> bool:
        return bool(self.instances) and self.current.is_up

    def start_again(self, _: None) -> None:
        """Start another instance, with an empty memory."""
        count = len(self.instances) + 1
        name = self.key if count == 1 else f"{self.key}.{count}"
        instance = Instance(self._world, name, self.key, self.token, self._number * 1000 + count, self._ended)
        self.instances.append(instance)
        instance.start()

    def crash(self, *, silent: bool) -> None:
        self._world.record(Crashed(self._world.now, self.current.name))
        self.current.kill(silent=silent)

    def _ended(self, instance: Instance, code: Code) -> None:
        """Handle the permanent end of an instance by the server: request a new token, if the code calls for one."""
        if code in _WANT_TOKEN:
            self._world.later(1.0, self._log_in_again, instance)

    def _log_in_again(self, instance: Instance) -> None:
        if instance.is_up and not instance.is_live:
            self.token = instance.machine.token = self._world.new_token(self.user)
            instance.start()

    def do(self, step: Step) -> None:
        live = self.live or [self.current]
        instance = live[int(step.time * 1e6) % len(live)]  # a device that is logged in twice uses both instances
        if not instance.is_up:
            return
        instance.look()
        self._world.record(Stepped(self._world.now, instance.name, step.action, dict(step.arguments)))
        if step.action == "leave":
            instance.act(instance.machine.stop)
        elif step.action == "come":
            instance.start()
        elif instance.is_live:
            _ACTIONS[step.action](instance, step.arguments)


def _send(instance: Instance, message: Any) -> None:
    if message["id"] not in instance.sent:
        instance.sent[message["id"]] = dict(message)
        _transmit(instance, message)


def _resend(instance: Instance, _: Any) -> None:
    failed = [id for id in instance.sent if instance.machine.status(id) == Status.FAIL]
    if failed:
        _transmit(instance, instance.sent[failed[-1]])


def _tap(instance: Instance, _: Any) -> None:
    """Send the latest message once more, in any status. The user does not wait for an answer."""
    if instance.sent:
        id, message = next(reversed(instance.sent.items()))
        instance.tapped.add(id)
        _transmit(instance, message)


def _transmit(instance: Instance, message: Any) -> None:
    scene, to, content, id_client = Scene(message["scene"]), message["to"], message["content"], message["id"]
    machine, rest = instance.machine, {name: message[name] for name in ("type", "file", "custom") if name in message}
    instance.act(lambda now: machine.send(scene, to, content, id_client, now, **rest))


def _read(instance: Instance, asked: Any) -> None:
    instance.act(lambda now: instance.machine.read(asked["conversation"], now))


def _set_conversation(instance: Instance, asked: Any) -> None:
    conversation = asked["conversation"]
    settings = {name: value for name, value in asked.items() if name != "conversation"}
    wanted = frames.SetConversation(conversation, **settings)
    instance.ask(wanted, lambda now: instance.machine.set_conversation(conversation, now, **settings))


def _hide(instance: Instance, asked: Any) -> None:
    conversation, machine = asked["conversation"], instance.machine
    for view in machine.conversations():
        if view.id == conversation:
            seen = view.last_msg.seq
            wanted = frames.SetConversation(conversation, hidden_seq=seen)
            instance.ask(wanted, lambda now: machine.hide(conversation, now))


def _read_count(instance: Instance, asked: Any) -> None:
    """Request the read count of one of the latest messages; if there is none, of a seq that may exist later."""
    conversation, seq = asked["conversation"], asked["seq"]
    for view in instance.machine.conversations():
        if view.id == conversation:
            seq = max(1, view.last_msg.seq + 1 - seq)
    wanted = frames.ReadCount(conversation, seq)
    instance.ask(wanted, lambda now: instance.machine.read_count(conversation, seq, now))


def _history(instance: Instance, asked: Any) -> None:
    wanted = frames.History(asked["conversation"], asked["first"], asked["last"])
    machine = instance.machine
    instance.ask(wanted, lambda now: machine.history(wanted.conversation_id, wanted.first, wanted.last, now))


def list_group(instance: Instance, asked: Any) -> None:
    """Request a page of the state of a group."""
    name, after, machine = asked["name"], asked.get("after", ""), instance.machine
    instance.ask(frames.Group(f"{Scene.GROUP}:{name}", after), lambda now: machine.group(name, after, now))


def list_friends(instance: Instance, asked: Any) -> None:
    """Request a page of the friends and friend requests of the user."""
    after, machine = asked.get("after", ""), instance.machine
    instance.ask(frames.Friends(after), lambda now: machine.friends(after, now))


def _create_group(instance: Instance, asked: Any) -> None:
    """Create a group. All devices of a user send the same request under one idClient."""
    name, members, data = asked["name"], asked["members"], asked.get("data", {})
    id_client = f"create:{name}"
    wanted = _notice(instance, "group", name, id_client, "create", members, data)
    if instance.sent.get(id_client, wanted) != wanted:
        wanted["id"] = f"create:{name}:{'+'.join(members)}"
    _send(instance, wanted)


def _notice(
    instance: Instance, scene: str, to: str, id: str, event: str, targets: list[str], data: dict[str, Any]
) -> dict[str, Any]:
    file = {"event": event, "operator": instance.user, "targets": list(targets), "data": dict(data)}
    return {"scene": scene, "to": to, "id": id, "content": "", "type": "notification", "file": file}


def _change(instance: Instance, asked: Any) -> None:
    where = (asked["scene"], asked["to"], asked["id"], asked["event"])
    _send(instance, _notice(instance, *where, asked.get("targets", []), asked.get("data", {})))


def _amend(instance: Instance, asked: Any) -> None:
    """Amend one of the latest messages, of this device's own or of all; if there is none, a seq that may exist
    later."""
    scene, to, seq = Scene(asked["scene"]), asked["to"], asked["back"]
    conversation = conversation_id(scene, instance.user, to)
    if scene == Scene.CHATROOM:
        said = [i for i, sent in instance.sent.items() if (sent["scene"], sent["to"]) == (scene, to)]
        seqs = [e.seq for e in instance.events if type(e) is events.Received and e.seq and e.id_client in said]
        if not asked["own"]:
            heard = (e.message for e in instance.events if type(e) is events.Shown)
            seqs = [message.seq for message in heard if message.conversation_id == conversation]
        seq = seqs[-min(seq, len(seqs))] if seqs else seq
    elif asked["own"]:
        acked = (e for e in instance.events if type(e) is events.Acked)
        own = [e.seq for e in acked if e.seq and e.conversation_id == conversation]
        seq = own[-min(seq, len(own))] if own else seq
    else:
        for view in instance.machine.conversations():
            if view.id == conversation:
                seq = max(1, view.last_msg.seq + 1 - seq)
    data = {"seq": seq} if asked["event"] == "recall" else {"seq": seq, "content": asked["content"]}
    _send(instance, _notice(instance, scene, to, asked["id"], asked["event"], [], data))


def _enter(instance: Instance, asked: Any) -> None:
    name, recent, machine = asked["name"], asked["recent"], instance.machine
    instance.rooms.add(name)
    instance.ask(frames.Enter(name, recent), lambda now: machine.enter(name, now, recent))


def _leave_room(instance: Instance, asked: Any) -> None:
    name, machine = asked["name"], instance.machine
    instance.rooms.discard(name)
    instance.ask(frames.Leave(name), lambda now: machine.leave(name, now))


def _typing(instance: Instance, asked: Any) -> None:
    instance.act(lambda now: instance.machine.typing(asked["conversation"], now))


def _end_session(instance: Instance, asked: Any) -> None:
    device = asked["other"]
    instance.ask(frames.EndSession(device), lambda now: instance.machine.end_session(device, now))


_ACTIONS = {
    "send": _send,
    "resend": _resend,
    "tap": _tap,
    "read": _read,
    "set_conversation": _set_conversation,
    "hide": _hide,
    "read_count": _read_count,
    "history": _history,
    "group": list_group,
    "friends": list_friends,
    "create_group": _create_group,
    "change": _change,
    "amend": _amend,
    "enter": _enter,
    "leave_room": _leave_room,
    "typing": _typing,
    "end_session": _end_session,
}
