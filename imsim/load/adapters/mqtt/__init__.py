"""MQTT brokers, such as Mosquitto: MQTT 5 over WebSocket.

MQTT has topics and no users, so the adapter maps conversations to topics. The options can change the patterns:

- p2p: `<namespace>/u/<recipient>/<sender>`. Each device of a user subscribes to the topics in which the user is the
  recipient, and to those in which the user is the sender. So a message is published once, and also reaches the other
  devices of its sender. With a pattern without the sender, only the devices of the recipient receive it.
- groups and chatrooms: `<namespace>/g/<group>` and `<namespace>/c/<room>`. Joining means to subscribe.

All subscriptions have the option No Local: a broker must not send a message back to the device that published it.

The id of a message travels in the payload. A user property would be a field of its own, but bridges and clients of
MQTT 3.1.1 drop it.

With QoS 1, the broker acknowledges each message (PUBACK), and keeps the session of a device that is offline. With
QoS 0, it does neither. The packets are read and written by `mqtt5`, a sans-I/O library without dependencies: 0.6 us to
write a PUBLISH and 0.3 us to read one.
"""

from __future__ import annotations

import importlib.util

from imsim.core.exceptions import UsageError

if importlib.util.find_spec("mqtt5") is None:
    raise UsageError("adapter: mqtt needs the package mqtt5; run `pip install 'imsim[mqtt]'`")

from imsim.load.adapters.mqtt.adapter import MqttAdapter

__all__ = ["MqttAdapter"]
