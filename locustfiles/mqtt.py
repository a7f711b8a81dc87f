"""The office on an MQTT broker with WebSockets, such as Mosquitto."""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
    adapter = "mqtt"
    adapter_options = {"qos": "1"}
