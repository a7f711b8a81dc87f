"""The topics of an MQTT broker: how conversations map to topics, and topics to conversations."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import NamedTuple

from imsim.core.exceptions import UsageError
from imsim.core.model import Scene
from imsim.load.adapters.interface import Conversation

_FIELD = re.compile(r"\{(\w*)\}")  # of a pattern


class Topics:
    """The topics of a run, made from the patterns in the options.

    Raises: UsageError for a pattern that cannot be used.
    """

    def __init__(self, options: Mapping[str, str], namespace: str) -> None:
        group = pattern_of(options, "group_topic", "{namespace}/g/{group}", group=True, namespace=False)
        room = pattern_of(options, "room_topic", "{namespace}/c/{room}", room=True, namespace=False)
        self._rooms = {
            Scene.GROUP: Affixes.of(group.replace("{namespace}", namespace), "{group}"),
            Scene.CHATROOM: Affixes.of(room.replace("{namespace}", namespace), "{room}"),
        }
        self._p2p = _p2p_pattern(options).replace("{namespace}", namespace)
        self.name_sender = "{from}" in self._p2p
        """Whether the topic of a p2p message contains its sender."""
        expression = (
            re.escape(self._p2p).replace(r"\{to\}", "(?P<recipient>[^/]+)").replace(r"\{from\}", "(?P<sender>[^/]+)")
        )
        self._match = re.compile(expression).fullmatch
        self._conversations: dict[str, Conversation] = {}  # groups and chatrooms, by topic

    def own_filters(self, user: str) -> list[str]:
        """Return the topic filters of the p2p messages to a user and, if possible, from the user."""
        filters = [self._p2p.replace("{to}", user).replace("{from}", "+")]
        if self.name_sender:
            filters.append(self._p2p.replace("{to}", "+").replace("{from}", user))
        return filters

    def p2p_from(self, user: str) -> Affixes:
        """Return the text before and after the recipient in the topics of the p2p messages from a user."""
        return Affixes.of(self._p2p.replace("{from}", user), "{to}")

    def room_topic(self, conversation: Conversation) -> str:
        """Return the topic of a group or chatroom."""
        affixes = self._rooms[conversation.scene]
        topic = affixes.before + conversation.name + affixes.after
        self._conversations[topic] = conversation
        return topic

    def conversation(self, topic: str) -> Conversation | None:
        """Return the conversation of the messages with this topic, or None for a topic of others."""
        known = self._conversations.get(topic)
        if known is not None:
            return known
        found = self._match(topic)
        return Conversation(Scene.P2P, found["recipient"]) if found else None

    def sender(self, topic: str) -> str | None:
        """Return the sender of the messages with this topic, or None if the topic does not contain it."""
        found = self._match(topic) if self.name_sender and topic not in self._conversations else None
        return found["sender"] if found else None


class Affixes(NamedTuple):
    """The text before and after the name in a topic."""

    before: str
    after: str

    @classmethod
    def of(cls, pattern: str, field: str) -> Affixes:
        """Split a pattern at a field."""
        before, _, after = pattern.partition(field)
        return cls(before, after)


def pattern_of(options: Mapping[str, str], name: str, default: str, **fields: bool) -> str:
    """Return the pattern that an option has. `fields`: the fields that it can have, and whether it must have them.

    Raises: UsageError if it has other fields, or wildcards.
    """
    pattern = options.get(name, default)
    found = _FIELD.findall(pattern)
    known = ", ".join(f"{{{field}}}" for field in fields)
    if not set(found) <= set(fields) or re.search("[{}]", _FIELD.sub("", pattern)):
        raise UsageError(f"option {name}: can contain only the fields {known} (got {pattern!r})")
    for field, must in fields.items():
        if not must <= found.count(field) <= 1:
            raise UsageError(f"option {name}: must contain {{{field}}} once (got {pattern!r})")
    if re.search(r"[+#\0]", pattern):
        raise UsageError(f"option {name}: must not contain the wildcards + and # (got {pattern!r})")
    return pattern


def _p2p_pattern(options: Mapping[str, str]) -> str:
    name = "p2p_topic"
    pattern = pattern_of(options, name, "{namespace}/u/{to}/{from}", **{"to": True, "from": False, "namespace": False})
    if "{from}" in pattern and not {"{to}", "{from}"} <= set(pattern.split("/")):
        # A subscription has a wildcard in the place of a field, and a wildcard is a whole level.
        raise UsageError(f"option {name}: {{to}} and {{from}} must each be between slashes (got {pattern!r})")
    return pattern
