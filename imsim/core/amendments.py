"""The rules of recalling and editing: a later entry of the log that changes what an earlier one says.

The earlier one is changed where it stands, too, so that who fetches it afterwards never sees what was taken back; and
the later one goes to everybody, so that who has it already takes it back. Both say the same, in any order.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from imsim.core.changes import Change, Decision, Refused, event_of
from imsim.core.model import Code, Message, MessageType

EVENTS = ("recall", "edit")


def target_seq(change: Change) -> int:
    """Which message it is about. Raises: Refused."""
    seq = change.data.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 1 <= seq < change.seq:
        raise Refused(Code.BAD_REQUEST, "file.data.seq: expected the seq of a message of this conversation")
    return seq


def decide(change: Change, target: Message, *, rank: int, recall_window: int, edit_window: int) -> Decision:
    """What becomes of recalling or editing `target`. `rank`: the operator's in a group (1 and more: an admin); windows:
    ms after its time within which its sender may. Raises: Refused."""
    if target.recalled:
        raise Refused(Code.CONFLICT, "the message was recalled")
    own, age = target.sender == change.operator, change.time - target.time
    if change.event == "recall":
        if not (rank or (own and age <= recall_window)):
            raise Refused(Code.EXPIRED if own else Code.FORBIDDEN, "only its sender may, soon after, or an admin")
        return Decision(amended=recalled(target, change.seq))
    if not own or age > edit_window:
        raise Refused(Code.EXPIRED if own else Code.FORBIDDEN, "only its sender may, soon after")
    content = change.data.get("content")
    if target.type != MessageType.TEXT or not isinstance(content, str) or not content:
        raise Refused(Code.BAD_REQUEST, "file.data.content: expected the new text of a text message")
    return Decision(amended=edited(target, content, change.seq))


def recalled_seq(entry: Message) -> int | None:
    """The seq of the message that this entry of the log recalls; None for any other."""
    if event_of(entry) != "recall" or entry.file is None:
        return None
    data = entry.file["data"]
    return data["seq"] if isinstance(data, dict) else None


def edits(entry: Message, seq: int) -> bool:
    """Whether this entry of the log edits the message at `seq`."""
    data = entry.file["data"] if event_of(entry) == "edit" and entry.file else None
    return isinstance(data, dict) and data["seq"] == seq


def concerning(entries: Iterable[Message], stays: Sequence[Sequence[int]]) -> list[Message]:
    """Those of the entries that recall or edit what was said in one of these stays (first and last seq)."""
    found = []
    for entry in entries:
        data = entry.file["data"] if event_of(entry) in EVENTS and entry.file else None
        if isinstance(data, dict) and any(first <= data["seq"] <= last for first, last in stays):
            found.append(entry)
    return found


def amended(message: Message, entry: Message) -> Message:
    """As it is after this entry of the log, which recalls or edits it."""
    data = entry.file["data"] if entry.file else None
    if event_of(entry) == "edit" and isinstance(data, dict):
        return edited(message, data["content"], entry.seq)
    return recalled(message, entry.seq)


def recalled(message: Message, seq: int) -> Message:
    return replace(message, content="", file=None, custom=None, recalled=True, amended=seq)


def edited(message: Message, content: str, seq: int) -> Message:
    return replace(message, content=content, amended=seq)
