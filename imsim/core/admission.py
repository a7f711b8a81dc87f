"""What is wrong with a request by itself, whoever asks and whatever is stored: the gateway lets no such thing in."""

from __future__ import annotations

import json

from imsim.core import frames
from imsim.core.attachments import check_attachment
from imsim.core.exceptions import BadAttachment, BadName
from imsim.core.model import Code, MessageType, check_name, peer_in
from imsim.core.policies import Policies

Unfit = tuple[Code, str]  # with which it is rejected


def of_send(frame: frames.Send, policies: Policies) -> Unfit | None:
    """None: nothing is wrong with it."""
    content, limit = frame.content, policies.content_bytes
    is_short_text = not (frame.custom or frame.file) and content.isascii() and len(content) <= limit
    if not is_short_text and (
        unfit := _of_texts(limit, content=content, custom=frame.custom, file=_weighed(frame, policies))
    ):
        return unfit
    try:
        check_name("to", frame.to)
        if not 1 <= len(frame.id_client) <= 128:
            raise BadName("idClient: give it 1 to 128 characters")
        if not 1 <= len(frame.type) <= 64:
            raise BadName("type: give it 1 to 64 characters")
        if frame.after is not None and len(frame.after) > 128:
            raise BadName("after: an idClient has at most 128 characters")
        check_attachment(frame.type, frame.file)
    except (BadName, BadAttachment) as error:
        return Code.BAD_REQUEST, str(error)
    return None


def of_setting(frame: frames.SetConversation, user: str, policies: Policies) -> Unfit | None:
    """None: nothing is wrong with it."""
    if unfit := _of_texts(policies.content_bytes, custom=frame.custom):
        return unfit
    if frame.blocked is not None and not peer_in(frame.conversation_id, user):
        return Code.BAD_REQUEST, "conversationId: there is nobody to be blocked in it"
    return None


def _weighed(frame: frames.Send, policies: Policies) -> dict[str, object] | None:
    """What of the attachment counts by its bytes: not the users whom a change names, of whom there may be as many as a
    group has members."""
    if frame.file is not None and frame.type == MessageType.NOTIFICATION:
        targets = frame.file.get("targets")
        if isinstance(targets, list) and len(targets) <= policies.group_size:
            return {**frame.file, "targets": None}
    return frame.file


def _of_texts(limit: int, **fields: str | dict[str, object] | None) -> Unfit | None:
    """The first of the fields that has too many bytes, or is no text."""
    for name, value in fields.items():
        if not value:
            continue
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        try:
            if (len(text) if text.isascii() else len(text.encode())) > limit:
                return Code.TOO_LARGE, f"{name}: more than {limit} bytes of UTF-8"
        except UnicodeEncodeError:  # a client in this process; from any other the shell refuses it
            return Code.BAD_REQUEST, f"{name}: half a surrogate pair is no character"
    return None
