"""The rules of recalling and editing: a later entry of the log that changes what an earlier one says.

The earlier one is changed where it stands, too, so that who fetches it afterwards never sees what was taken back; and
the later one goes to everybody, so that who has it already takes it back. Both say the same, in any order.
"""

from __future__ import annotations

from imsim.core.changes import edited, recalled
from imsim.core.model import Code, Message, MessageType
from imsim.core.router.rules.decision import Change, Decision, RuleViolation

EVENTS = ("recall", "edit")


def target_seq(change: Change) -> int:
    """Which message it is about. Raises: RuleViolation."""
    seq = change.data.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 1 <= seq < change.seq:
        raise RuleViolation(Code.BAD_REQUEST, "file.data.seq: expected the seq of a message of this conversation")
    return seq


def decide(change: Change, target: Message, *, rank: int, recall_window: int, edit_window: int) -> Decision:
    """What becomes of recalling or editing `target`. `rank`: the operator's in a group (1 and more: an admin); windows:
    ms after its time within which its sender may. Raises: RuleViolation."""
    if target.recalled:
        raise RuleViolation(Code.CONFLICT, "the message was recalled")
    own, age = target.sender == change.operator, change.time - target.time
    if change.event == "recall":
        if not (rank or (own and age <= recall_window)):
            raise RuleViolation(Code.EXPIRED if own else Code.FORBIDDEN, "only its sender may, soon after, or an admin")
        return Decision(amended=recalled(target, change.seq))
    if not own or age > edit_window:
        raise RuleViolation(Code.EXPIRED if own else Code.FORBIDDEN, "only its sender may, soon after")
    content = change.data.get("content")
    if target.type != MessageType.TEXT or not isinstance(content, str) or not content:
        raise RuleViolation(Code.BAD_REQUEST, "file.data.content: expected the new text of a text message")
    return Decision(amended=edited(target, content, change.seq))
