"""What is wrong with a request by itself, whoever asks and whatever is stored: the gateway lets no such thing in."""

from __future__ import annotations

import json

from imsim.core import frames
from imsim.core.attachments import check_attachment, json_fault
from imsim.core.changes import event_of
from imsim.core.exceptions import BadAttachment, BadName
from imsim.core.model import LONGEST_ID_CLIENT, LONGEST_TYPE, Code, MessageType, Scene, check_name, peer_in
from imsim.core.policies import Policies

ValidationError = tuple[Code, str]  # with which it is rejected

#: How the idClients of system messages begin that follow from changes: with the conversation. Who took the next one in
#: advance would have it left out, as one that is there already.
_NOTES = (f"{Scene.P2P}:", f"{Scene.GROUP}:")


def of_send(frame: frames.Send, policies: Policies) -> ValidationError | None:
    """None: nothing is wrong with it."""
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
            raise BadName(f"idClient: give it 1 to {LONGEST_ID_CLIENT} characters")
        if frame.scene == Scene.SYSTEM and frame.id_client.startswith(_NOTES):
            raise BadName(f"idClient: one that begins with {' or '.join(_NOTES)} is for what the service says itself")
        if not 1 <= len(frame.type) <= LONGEST_TYPE:
            raise BadName(f"type: give it 1 to {LONGEST_TYPE} characters")
        if frame.after is not None and len(frame.after) > LONGEST_ID_CLIENT:
            raise BadName(f"after: an idClient has at most {LONGEST_ID_CLIENT} characters")
        check_attachment(frame.type, frame.file)
    except (BadName, BadAttachment) as error:
        return Code.BAD_REQUEST, str(error)
    return None


def of_setting(frame: frames.SetConversation, user: str, policies: Policies) -> ValidationError | None:
    """None: nothing is wrong with it."""
    if error := _of_texts(policies.content_bytes, custom=frame.custom):
        return error
    if frame.blocked is not None and not peer_in(frame.conversation_id, user):
        return Code.BAD_REQUEST, "conversationId: there is nobody to be blocked in it"
    return None


def _new_text(frame: frames.Send) -> str:
    """What an edit puts in the place of a message's content, and may be as long."""
    data = frame.file.get("data") if event_of(frame) == "edit" and frame.file else None
    content = data.get("content") if isinstance(data, dict) else None
    return content if isinstance(content, str) else ""


def _weighed(frame: frames.Send, policies: Policies) -> dict[str, object] | None:
    """What of the attachment counts by its bytes: not the users whom a change names, of whom there may be as many as a
    group has members; and not the text of an edit, which has a limit of its own."""
    if frame.file is None or frame.type != MessageType.NOTIFICATION:
        return frame.file
    file, targets, data = dict(frame.file), frame.file.get("targets"), frame.file.get("data")
    if isinstance(targets, list) and len(targets) <= policies.group_size:
        file["targets"] = None
    if isinstance(data, dict) and _new_text(frame):
        file["data"] = {**data, "content": ""}
    return file


def _of_texts(limit: int, **fields: str | dict[str, object] | None) -> ValidationError | None:
    """The first of the fields that cannot be carried, or has too many bytes."""
    for name, value in fields.items():
        if not value:
            continue
        if fault := json_fault(value):
            return Code.BAD_REQUEST, f"{name}: {fault}"
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        if (len(text) if text.isascii() else len(text.encode())) > limit:
            return Code.TOO_LARGE, f"{name}: more than {limit} bytes of UTF-8"
    return None
