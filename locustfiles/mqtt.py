"""The office on an MQTT 5 broker with WebSockets, such as Mosquitto: each message is acknowledged (QoS 1)."""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
    adapter = "mqtt"
