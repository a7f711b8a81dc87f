"""The public SDK: `imsim.Client`, one device of a user in an asyncio program or a notebook.

Each module imports only modules above it in this list:

- `credentials`, `access`: the token for a login, and where it comes from
- `connector`: the connection, opened on request
- `device`: the core's Client on that connection, opened again after each loss
- `feed`, `application`: the events that wait for the program, its handlers and loops
- `state_file`, `state_keeper`: the positions that outlive the program
- `views`: messages and conversations, as the program sees them
- `session`: calls that wait for their answers, and events that become views
- `handles`, `sending`, `client`: the methods that the program calls
"""

from imsim.live.client.client import Client
from imsim.live.client.device import Device
from imsim.live.client.handles import Chatroom, Friends, Group, GroupInfo
from imsim.live.client.views import Conversation, Message

__all__ = ["Chatroom", "Client", "Conversation", "Device", "Friends", "Group", "GroupInfo", "Message"]
