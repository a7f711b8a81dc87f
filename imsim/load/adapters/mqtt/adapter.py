"""The adapter of MQTT brokers and its options."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from imsim.core.exceptions import UsageError
from imsim.load.adapters.interface import Adapter, Feature, Target
from imsim.load.adapters.mqtt.session import MqttSession, Settings
from imsim.load.adapters.mqtt.topics import Topics, pattern_of


class MqttAdapter(Adapter):
    """MQTT 5 over WebSocket. `Target.key` is the password of all users."""

    features: frozenset[Feature] = frozenset(
        {Feature.ACK, Feature.GROUPS, Feature.CHATROOMS, Feature.OWN_DEVICES, Feature.RESUME}
    )
    binary: ClassVar[bool] = True
    options: ClassVar[Mapping[str, str]] = {
        "qos": "0 or 1 (default 1); with 0 there are no acks, and devices that are offline miss messages",
        "p2p_topic": "topic of a p2p message, with {namespace}, {to} and {from} (default {namespace}/u/{to}/{from})",
        "group_topic": "topic of a group, with {namespace} and {group} (default {namespace}/g/{group})",
        "room_topic": "topic of a chatroom, with {namespace} and {room} (default {namespace}/c/{room})",
        "keepalive": "seconds of silence before a ping (default: the scenario's heartbeat)",
        "session_expiry": "seconds that the broker keeps the session of an offline device (default 3600)",
        "username": "name of all users for the login, with {user} (default: {user} if there is a key, otherwise none)",
    }

    def __init__(self, target: Target) -> None:
        super().__init__(target)
        url = urlsplit(target.url)
        if url.scheme not in ("ws", "wss") or not url.hostname:
            raise UsageError(f"url: must be ws:// or wss://, the broker's WebSocket listener (got {target.url!r})")
        options = target.options
        qos = _number(options, "qos", 1, 0, 1)
        keepalive = target.policies.heartbeat
        if "keepalive" in options:
            keepalive = _number(options, "keepalive", 0, 1, 0xFFFF)
        session_expiry = _number(options, "session_expiry", 3600, 1, 0xFFFF_FFFE)
        self._username = pattern_of(options, "username", "{user}" if target.key else "", user=False)
        topics = Topics(options, target.namespace)
        self._settings = Settings(target, topics, qos, keepalive, session_expiry)
        missing = set() if qos else {Feature.ACK, Feature.RESUME}
        if not topics.name_sender:
            missing.add(Feature.OWN_DEVICES)
        self.features = type(self).features - missing

    def session(self, number: int, user: str, device: str) -> MqttSession:
        return MqttSession(self._settings, number, user, device, self._username.replace("{user}", user))


def _number(options: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = options.get(name, str(default))
    if not text.isdecimal() or not least <= int(text) <= most:
        raise UsageError(f"option {name}: must be a whole number from {least} to {most} (got {text!r})")
    return int(text)
