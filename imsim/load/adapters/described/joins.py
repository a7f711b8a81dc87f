"""The groups and chatrooms of a device."""

from __future__ import annotations

from math import inf
from typing import Any

from imsim.core.model import Scene
from imsim.load.adapters.described.frames import Frames
from imsim.load.adapters.described.outbox import request_number
from imsim.load.adapters.described.paths import MISSING
from imsim.load.adapters.described.protocol import Joining, Protocol, Rule, meets
from imsim.load.adapters.described.templates import Template
from imsim.load.adapters.interface import Conversation, Joined, NotJoined, Out, Response

CREATED, ENTERED = "created", "entered"
_SCENES = (Scene.GROUP, Scene.CHATROOM)
_RESPONSE = "response"  # a join waits for the answer to its HTTP request


class _Join:
    """A group or chatroom of a device.

    due: when to give up.
    n: the number of its last request.
    waits_for: the answer that it waits for (CREATED, ENTERED or _RESPONSE); empty if it waits for none.
    is_done: whether `Joined` was reported.
    """

    __slots__ = ("conversation", "creates", "due", "is_done", "members", "n", "waits_for")

    def __init__(self, conversation: Conversation, members: list[str], creates: bool, due: float) -> None:
        self.conversation = conversation
        self.members = members
        self.creates = creates
        self.due = due
        self.n = 0
        self.waits_for = ""
        self.is_done = False

    @property
    def values(self) -> dict[str, object]:
        """The values of the placeholders."""
        scene, name = self.conversation
        return {"name": name, "members": self.members, "scene": scene}


class Joins:
    """The groups and chatrooms of a device.

    due: no deadline of a join is earlier.
    """

    def __init__(self, protocol: Protocol, timeout: float, frames: Frames) -> None:
        self.due = inf
        self._protocol = protocol
        self._timeout = timeout
        self._frames = frames
        self._joins: dict[Conversation, _Join] = {}

    def join(
        self, conversation: Conversation, members: list[str], creates: bool, now: float, *, is_online: bool
    ) -> list[Out]:
        """Join a group or chatroom, now or after the login."""
        join = self._joins[conversation] = _Join(conversation, members, creates, now + self._timeout)
        self.due = min(self.due, join.due)
        outs: list[Out] = []
        if is_online:
            self._begin(join, now, outs)
        return outs

    def online(self, now: float) -> list[Out]:
        """Continue after a login."""
        outs: list[Out] = []
        for join in list(self._joins.values()):
            if join.waits_for != _RESPONSE and (not join.is_done or self._of(join).again):
                self._begin(join, now, outs)
        return outs

    def connection_lost(self) -> None:
        """Expect no more answers to what was sent on this connection."""
        for join in self._joins.values():
            if join.waits_for != _RESPONSE:
                join.waits_for = ""

    def closed(self, reason: str) -> list[Out]:
        """Give all joins up."""
        outs: list[Out] = [NotJoined(one.conversation, reason) for one in self._joins.values() if not one.is_done]
        self._joins.clear()
        self.due = inf
        return outs

    def handle_timer(self, now: float) -> list[Out]:
        """Give up the joins that have no answer."""
        outs: list[Out] = []
        for join in [one for one in self._joins.values() if one.due <= now]:
            self._end(join, f"no answer within {self._timeout:g} s", outs)
        self.due = min((one.due for one in self._joins.values()), default=inf)
        return outs

    # --- answers ------------------------------------------------------------------------------------------------------

    def created(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        """Handle the answer to `create`."""
        if (join := self._answered(rule, document, CREATED)) is not None:
            self._enter(join, now, outs)

    def entered(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        """Handle the answer to `enter`."""
        if (join := self._answered(rule, document, ENTERED)) is not None:
            self._end(join, "", outs)

    def refused(self, rule: Rule, document: Any, now: float, outs: list[Out]) -> None:
        """Handle a refusal."""
        if (join := self._answered(rule, document, CREATED, ENTERED)) is not None:
            self._end(join, rule.reason_in(document), outs)

    def responded(self, ref: str, response: Response, now: float) -> list[Out]:
        """Handle the answer to an HTTP request."""
        scene, _, name = ref.partition(":")
        join = self._joins.get(Conversation(Scene(scene), name)) if scene in _SCENES else None
        outs: list[Out] = []
        if join is None or join.waits_for != _RESPONSE:
            return outs
        call = self._of(join).request
        assert call is not None
        if call.is_success(response.status):
            self._enter(join, now, outs)
        else:
            self._end(join, call.reason(response), outs)
        return outs

    def _answered(self, rule: Rule, document: Any, *answers: str) -> _Join | None:
        """Return the join that an answer is about: by its name, its number, or the order of the requests."""
        try:
            n = None if rule.n is None else request_number(rule.n(document))
        except MISSING:
            return None
        for join in self._joins.values():
            if (
                join.conversation.scene is rule.scene
                and join.waits_for in answers
                and (n is None or join.n == n)
                and (not rule.where or meets(document, rule.where, self._frames.names | join.values))
            ):
                return join
        return None

    # --- steps --------------------------------------------------------------------------------------------------------

    def _of(self, join: _Join) -> Joining:
        return self._protocol.joins[join.conversation.scene]

    def _begin(self, join: _Join, now: float, outs: list[Out]) -> None:
        joining = self._of(join)
        if join.creates and not join.is_done and joining.request is not None:
            join.waits_for = _RESPONSE
            ref = f"{join.conversation.scene}:{join.conversation.name}"
            outs.append(joining.request.request(ref, self._frames.names | join.values, self._timeout))
        elif join.creates and not join.is_done and joining.create is not None:
            self._ask(join, CREATED if joining.create_waits else "", joining.create, now, outs)
            if not joining.create_waits:
                self._enter(join, now, outs)
        else:
            self._enter(join, now, outs)

    def _enter(self, join: _Join, now: float, outs: list[Out]) -> None:
        """Enter a group or chatroom that exists."""
        joining = self._of(join)
        if joining.enter is not None:
            self._ask(join, ENTERED if joining.enter_waits else "", joining.enter, now, outs)
        if joining.enter is None or not joining.enter_waits:
            self._end(join, "", outs)

    def _ask(self, join: _Join, waits_for: str, template: Template, now: float, outs: list[Out]) -> None:
        outs.append(self._frames.render(template, join.values, now))
        join.n = self._frames.n if "n" in template.names else 0
        join.waits_for = waits_for
        self._joins[join.conversation] = self._joins.pop(join.conversation)  # in the order of the requests

    def _end(self, join: _Join, reason: str, outs: list[Out]) -> None:
        """Report the end of a join, once. `reason` is empty if it succeeded."""
        join.waits_for = ""
        join.due = inf
        if not join.is_done:
            outs.append(NotJoined(join.conversation, reason) if reason else Joined(join.conversation))
        join.is_done = True
        if reason or self._of(join).enter is None:  # there is nothing to do after the next login
            del self._joins[join.conversation]
