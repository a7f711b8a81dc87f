"""The office on an MQTT 5 broker with WebSockets, such as Mosquitto: each message is acknowledged (QoS 1).

    locust -f locustfiles/mqtt.py -H ws://127.0.0.1:9001 --headless

docs/mqtt-adapter.md has the settings of Mosquitto.
"""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
    adapter = "mqtt"
