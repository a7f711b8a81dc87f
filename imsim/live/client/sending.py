"""The part of `imsim.Client` that sends: each type of message, to any conversation."""

from __future__ import annotations

import json
from contextlib import suppress

from imsim.core.exceptions import UsageError
from imsim.core.model import MessageType, Scene, check_name, conversation_id, p2p_members, peer_in
from imsim.live.client.handles import Chatroom, Group
from imsim.live.client.session import Session
from imsim.live.client.views import Conversation, Message, Public

#: A user's name, the id of a conversation, or an object that has a conversation.
To = str | Conversation | Message | Group | Chatroom


class Sender(Public):
    """The methods of a client that send."""

    _session: Session

    async def send(
        self,
        to: To,
        content: str = "",
        *,
        type: str = "text",
        file: dict[str, object] | None = None,
        custom: object = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a message of any type, and return it once the server has stored it.

        While the client is offline, the send waits. Messages to one conversation keep the order of the calls, also when
        they run in parallel. If the task is cancelled, the message is sent all the same.

        Args:
            to: the recipient.
            content: the text.
            type: the type of the message.
            file: the attachment, as the type requires.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, at most 128 characters. By default it is a new one. With the `id_client`
                of a SendError, the same message is sent again, and stored only once.

        Raises:
            SendError: the server did not store the message. Its `retry` says whether to try again.
            UsageError: the message is not valid.
        """
        scene, name = self._address(to)
        return await self._session.send(scene, name, content, type, file, custom_text(custom), id_client)

    async def send_text(self, to: To, text: str, *, custom: object = None, id_client: str | None = None) -> Message:
        """Send a text, and return the message once the server has stored it. See `send`.

        Args:
            to: the recipient.
            text: the text.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, to send the same message again.
        """
        return await self.send(to, text, custom=custom, id_client=id_client)

    async def send_image(
        self,
        to: To,
        url: str,
        *,
        width: int,
        height: int,
        size: int,
        text: str = "",
        custom: object = None,
        id_client: str | None = None,
    ) -> Message:
        """Send an image that is stored elsewhere. See `send`.

        Args:
            to: the recipient.
            url: the address of the image.
            width: in pixels.
            height: in pixels.
            size: in bytes.
            text: a caption.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, to send the same message again.
        """
        file: dict[str, object] = {"url": url, "width": width, "height": height, "size": size}
        return await self.send(to, text, type=MessageType.IMAGE, file=file, custom=custom, id_client=id_client)

    async def send_audio(
        self,
        to: To,
        url: str,
        *,
        duration: float,
        size: int,
        format: str,
        text: str = "",
        custom: object = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a recording of sound that is stored elsewhere. See `send`.

        Args:
            to: the recipient.
            url: the address of the recording.
            duration: in seconds.
            size: in bytes.
            format: such as `m4a`.
            text: a caption.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, to send the same message again.
        """
        file: dict[str, object] = {"url": url, "duration": duration, "size": size, "format": format}
        return await self.send(to, text, type=MessageType.AUDIO, file=file, custom=custom, id_client=id_client)

    async def send_video(
        self,
        to: To,
        url: str,
        *,
        duration: float,
        size: int,
        format: str,
        text: str = "",
        custom: object = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a video that is stored elsewhere. See `send`.

        Args:
            to: the recipient.
            url: the address of the video.
            duration: in seconds.
            size: in bytes.
            format: such as `mp4`.
            text: a caption.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, to send the same message again.
        """
        file: dict[str, object] = {"url": url, "duration": duration, "size": size, "format": format}
        return await self.send(to, text, type=MessageType.VIDEO, file=file, custom=custom, id_client=id_client)

    async def send_file(
        self,
        to: To,
        url: str,
        *,
        size: int,
        format: str,
        text: str = "",
        custom: object = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a file that is stored elsewhere. See `send`.

        Args:
            to: the recipient.
            url: the address of the file.
            size: in bytes.
            format: such as `pdf`.
            text: a caption.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, to send the same message again.
        """
        file: dict[str, object] = {"url": url, "size": size, "format": format}
        return await self.send(to, text, type=MessageType.FILE, file=file, custom=custom, id_client=id_client)

    async def send_geo(
        self,
        to: To,
        title: str,
        *,
        longitude: float,
        latitude: float,
        text: str = "",
        custom: object = None,
        id_client: str | None = None,
    ) -> Message:
        """Send a position on the Earth. See `send`.

        Args:
            to: the recipient.
            title: the name of the place.
            longitude: in degrees, from -180 to 180.
            latitude: in degrees, from -90 to 90.
            text: a caption.
            custom: data of your own: a text, or a value that becomes JSON.
            id_client: the id of the message, to send the same message again.
        """
        file: dict[str, object] = {"title": title, "longitude": longitude, "latitude": latitude}
        return await self.send(to, text, type=MessageType.GEO, file=file, custom=custom, id_client=id_client)

    async def send_custom(self, to: To, custom: object, *, preview: str = "", id_client: str | None = None) -> Message:
        """Send data of your own, such as a card. To `system:<user>`, it is a system message. See `send`.

        Args:
            to: the recipient.
            custom: a text, or a value that becomes JSON.
            preview: a text for clients that cannot show the data.
            id_client: the id of the message, to send the same message again.
        """
        return await self.send(to, preview, type=MessageType.CUSTOM, custom=custom, id_client=id_client)

    async def recall(self, message: Message) -> Message:
        """Recall a message, and return the notification about it.

        Args:
            message: a message of this user, or of any member if this user is an admin of the group.
        """
        scene, to = self._address(checked(message))
        return await self._session.change(scene, to, "recall", data={"seq": message.seq})

    async def edit(self, message: Message, text: str) -> Message:
        """Replace the text of a message, and return the notification about it.

        Args:
            message: a text message of this user.
            text: the new text.
        """
        scene, to = self._address(checked(message))
        return await self._session.change(scene, to, "edit", data={"seq": message.seq, "content": text})

    async def typing(self, to: To) -> None:
        """Notify the other user of a p2p conversation that this user is writing. The hint can get lost.

        Args:
            to: the other user.
        """
        scene, name = self._address(to)
        if scene != Scene.P2P:
            raise UsageError(f"to: must be a user, because only p2p conversations have typing (got {scene}:{name})")
        conversation = conversation_id(scene, self._session.user, name)
        self._session.check()
        machine = self._session.device.machine
        self._session.device.perform(lambda now: machine.typing(conversation, now))

    # --- addresses --------------------------------------------------------------------------------------------------

    def _conversation_id(self, to: To) -> str:
        scene, name = self._address(to)
        return conversation_id(scene, self._session.user, name)

    def _address(self, to: To) -> tuple[Scene, str]:
        """Return the scene and the recipient. Raises: UsageError if `to` names none."""
        if isinstance(to, Conversation | Group | Chatroom):
            to = to.id
        elif isinstance(to, Message):
            to = to.conversation_id
        if not isinstance(to, str):
            raise UsageError(
                f"to: must be a user, the id of a conversation, or an object that has one (got {type(to).__name__})"
            )
        scene, colon, name = to.partition(":")
        if not colon:
            return Scene.P2P, check_name("to", to)
        if scene == Scene.P2P:
            user = self._session.user
            other = user if p2p_members(to) == (user,) else peer_in(to, user)
            if not other:
                raise UsageError(f"to: {to} is not a conversation of {user}; give the name of the other user")
            return Scene.P2P, other
        with suppress(ValueError):
            return Scene(scene), check_name("to", name)
        raise UsageError(
            f"to: must be a user, or p2p:USER:USER, group:NAME, chatroom:NAME or system:USER (got {to[:80]!r})"
        )


def checked(message: Message) -> Message:
    """Return the message. Raises: UsageError if it is something else."""
    if not isinstance(message, Message):
        raise UsageError(f"message: must be a message that this client has received (got {type(message).__name__})")
    return message


def custom_text(value: object) -> str | None:
    """Return the application's own data as a text. Raises: UsageError if JSON has no such value."""
    if value is None or isinstance(value, str):
        return value
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"custom: must be a text, or a value that JSON has: {error}") from None
