"""The office on an XMPP server with WebSockets, such as Prosody or ejabberd. It registers its users itself."""

from imsim.load.users import IMUser


class Office(IMUser):
    scenario = "office"
    adapter = "xmpp"
    adapter_options = {"domain": "localhost"}
