"""XMPP servers, such as Prosody and ejabberd: XMPP over WebSocket (RFC 7395), one stanza in each text frame.

    imsim load office --adapter xmpp --url ws://127.0.0.1:5280/xmpp-websocket --option acks=receipts

- Login: in-band registration (XEP-0077; an account that exists is used), SASL PLAIN or SCRAM, the device as resource,
  stream management (XEP-0198), presence, carbons (XEP-0280). `Target.key` is the password of all users.
- p2p: a chat message to the address of the user. The server sends it to all online devices of the recipient, and
  carbons of it to the other devices of the sender.
- Groups and chatrooms: rooms of XEP-0045. Each device is an occupant of its own, with the nickname `user.device`. The
  first device to join creates an instant room. No history is requested. A room also sends a message back to its sender:
  this reflection is not a delivery.
- The id of a message is the `id` of the stanza. Prosody and ejabberd keep it in rooms, carbons, offline storage and
  archives.
- Acks (option `acks`). With `sm`, the server reports how many stanzas it has handled (`<a h=.../>`). At most one
  request (`<r/>`) waits for its answer. So if a message follows another within a round trip, its ack is up to one round
  trip late. With `receipts`, a device of the recipient acknowledges the message (XEP-0184). In a room, the reflection
  is the ack. A message to a user who is offline has no ack until the user is back.
- A lost connection: the session is resumed (XEP-0198), and the stanzas that the server has not handled are sent again.
  If the server has dropped the session, the device logs in again, and sends the unacknowledged messages again. XMPP has
  no idempotency: if only the ack was lost, the recipients get the message twice.

Which messages reach a device that was offline? Offline storage keeps a p2p message only if no device of the user is
online, and a room keeps nothing for absent occupants. The feature `resume` promises more, so it needs the option
`resume=archive`: each device reads what it missed from the archives (XEP-0313) of its user and of its rooms.

The expat parser of the standard library reads the XML. A frame that does not begin with its root element, and so could
have a DTD, ends the session. No sans-I/O library for XMPP exists: slixmpp, aioxmpp and nbxmpp own their sockets and
event loops.
"""

from imsim.load.adapters.xmpp.adapter import XmppAdapter

__all__ = ["XmppAdapter"]
