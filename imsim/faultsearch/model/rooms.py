"""The model of a chatroom: its messages since it started, in their present form, and the sessions in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from imsim.core.model import Message, Session
from imsim.faultsearch.model.reference import same_words, wish_of
from imsim.faultsearch.model.rules import Outcome, Rules, amended, is_change, judge_in_room
from imsim.faultsearch.model.view import wish_to_send


@dataclass(slots=True)
class Room:
    """One chatroom.

    `said`: every message, by seq, as it was sent. `now`: the same in their present form. The rest lasts while its
    router lives and somebody is inside: `remembered` (seqs), `latest` (seq) and `present` (sessions).
    """

    said: dict[int, Message] = field(default_factory=dict)
    now: dict[int, Message] = field(default_factory=dict)
    remembered: set[int] = field(default_factory=set)
    latest: int = 0
    present: set[Session] = field(default_factory=set)

    @property
    def users(self) -> set[str]:
        return {session.user for session in self.present}

    def add(self, message: Message, rules: Rules) -> Outcome:
        """Add a message that a router has accepted. Return its effects by the rules."""
        wish = wish_of(message)
        outcome = judge_in_room(wish, self.now.get(wish.data.get("seq", 0)), rules)
        if outcome.amended is not None:
            changed = amended(list(self.now.values()), outcome.amended, message.seq)
            self.now.update((one.seq, one) for one in changed)
        self.said[message.seq] = self.now[message.seq] = message
        self.remembered.add(message.seq)
        self.latest = message.seq
        return outcome

    def remembers(self, sender: str, id_client: str) -> bool:
        return any(self.now[seq].sender == sender and self.now[seq].id_client == id_client for seq in self.remembered)

    def leave(self, sessions: Iterable[Session]) -> None:
        """Remove sessions. A room that all have left loses its messages."""
        self.present.difference_update(sessions)
        if not self.present:
            self.remembered.clear()

    def crash(self) -> None:
        """Forget everything, as its router has crashed. The room starts again with a seq derived from the time."""
        self.leave([*self.present])
        self.remembered.clear()
        self.latest = 0

    def refusals(self, user: str, sent: Mapping[str, Any], rules: Rules) -> set[str]:
        """Return the codes with which this send may have been refused by now."""
        wish, codes = wish_to_send(user, sent), set[str]()
        if is_change(wish):
            codes.add("bad_request")  # the room may have forgotten the message, or have started again
            target = self.now.get(wish.data.get("seq", 0))
            for time in (0, 1 << 60) if target else ():
                codes |= judge_in_room(replace(wish, time=time), target, rules).reasons
        own = [one for one in self.said.values() if (one.sender, one.id_client) == (user, sent["id"])]
        return codes if all(same_words(one, sent) for one in own) else codes | {"conflict"}
