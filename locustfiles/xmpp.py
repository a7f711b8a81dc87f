"""The office on an XMPP server with WebSockets, such as Prosody or ejabberd. It registers its users itself.

    locust -f locustfiles/xmpp.py -H ws://127.0.0.1:5280/xmpp-websocket --headless

docs/xmpp-adapter.md has the settings of the servers.
"""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
    adapter = "xmpp"
    adapter_options = {"domain": "localhost"}
