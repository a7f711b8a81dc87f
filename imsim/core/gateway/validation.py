"""The checks of requests that need neither the sender nor storage. The gateway rejects requests that fail them."""

from __future__ import annotations

import json

from imsim.core import frames
from imsim.core.attachments import check_attachment, json_fault
from imsim.core.changes import event_of
from imsim.core.exceptions import BadAttachment, BadName
from imsim.core.model import LONGEST_ID_CLIENT, LONGEST_TYPE, Code, MessageType, Scene, check_name, peer_in
from imsim.core.policies import Policies

ValidationError = tuple[Code, str]  # the code and the text of the rejection

#: The prefixes of the idClients in system messages that the service sends after changes. A client that used such an
#: idClient in advance would suppress the service's message, because it would count as a repetition.
_NOTES = (f"{Scene.P2P}:", f"{Scene.GROUP}:")


def of_send(frame: frames.Send, policies: Policies) -> ValidationError | None:
    """Return the error of a send, or None if it is valid."""
    content, limit = frame.content, policies.content_bytes
    if frame.file and (error := _of_texts(limit, **{"file.data.content": _new_text(frame)})):
        return error
    is_short_text = not (frame.custom or frame.file) and content.isascii() and len(content) <= limit
    if not is_short_text and (
        error := _of_texts(limit, content=content, custom=frame.custom, file=_weighed(frame, policies))
    ):
        return error
    try:
        check_name("to", frame.to)
        if not 1 <= len(frame.id_client) <= LONGEST_ID_CLIENT:
            raise BadName(f"idClient: expected 1 to {LONGEST_ID_CLIENT} characters, got {len(frame.id_client)}")
        if frame.scene == Scene.SYSTEM and frame.id_client.startswith(_NOTES):
            raise BadName(f"idClient: must not begin with {' or '.join(_NOTES)}, which the service's own messages use")
        if not 1 <= len(frame.type) <= LONGEST_TYPE:
            raise BadName(f"type: expected 1 to {LONGEST_TYPE} characters, got {len(frame.type)}")
        if frame.after is not None and len(frame.after) > LONGEST_ID_CLIENT:
            raise BadName(f"after: expected at most {LONGEST_ID_CLIENT} characters, got {len(frame.after)}")
        check_attachment(frame.type, frame.file)
    except (BadName, BadAttachment) as error:
        return Code.BAD_REQUEST, str(error)
    return None


def of_setting(frame: frames.SetConversation, user: str, policies: Policies) -> ValidationError | None:
    """Return the error of a change of settings, or None if it is valid."""
    if error := _of_texts(policies.content_bytes, custom=frame.custom):
        return error
    if frame.blocked is not None and not peer_in(frame.conversation_id, user):
        text = "conversationId: expected a p2p conversation of yours with another user, because `blocked` is given"
        return Code.BAD_REQUEST, text
    return None


def _new_text(frame: frames.Send) -> str:
    """Return the new content in an edit, or "" if the send is not an edit. The limit of `content` applies to it."""
    data = frame.file.get("data") if event_of(frame) == "edit" and frame.file else None
    content = data.get("content") if isinstance(data, dict) else None
    return content if isinstance(content, str) else ""


def _weighed(frame: frames.Send, policies: Policies) -> dict[str, object] | None:
    """Return the part of the attachment whose bytes are limited.

    The targets of a change do not count, because there may be as many as a group has members. The new text of an edit
    does not count, because it has its own limit.
    """
    if frame.file is None or frame.type != MessageType.NOTIFICATION:
        return frame.file
    file, targets, data = dict(frame.file), frame.file.get("targets"), frame.file.get("data")
    if isinstance(targets, list) and len(targets) <= policies.group_size:
        file["targets"] = None
    if isinstance(data, dict) and _new_text(frame):
        file["data"] = {**data, "content": ""}
    return file


def _of_texts(limit: int, **fields: str | dict[str, object] | None) -> ValidationError | None:
    """Return the error of the first field that JSON cannot represent or that has too many bytes, or None."""
    for name, value in fields.items():
        if not value:
            continue
        if fault := json_fault(value):
            return Code.BAD_REQUEST, f"{name}: {fault}"
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if (size := len(text) if text.isascii() else len(text.encode())) > limit:
            return Code.TOO_LARGE, f"{name}: expected at most {limit} bytes of UTF-8, got {size}"
    return None
