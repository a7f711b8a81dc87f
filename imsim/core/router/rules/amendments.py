"""The rules of recalls and edits. A recall or an edit is a later log entry that changes an earlier message.

Storage changes the earlier message too, so a client that fetches it later never sees the old content. The later entry
goes to every member, so a device that already has the message changes its copy. Both lead to the same result, and
their order does not matter.
"""

from __future__ import annotations

from imsim.core.changes import edited, recalled
from imsim.core.model import Code, Message, MessageType
from imsim.core.router.rules.decision import Change, Decision, RuleViolation

EVENTS = ("recall", "edit")


def target_seq(change: Change) -> int:
    """Return the seq of the message that the change refers to. Raises: RuleViolation."""
    seq = change.data.get("seq")
    if not isinstance(seq, int) or isinstance(seq, bool) or not 1 <= seq < change.seq:
        raise RuleViolation(Code.BAD_REQUEST, "file.data.seq: expected the seq of a message of this conversation")
    return seq


def decide(change: Change, target: Message, *, rank: int, recall_window: int, edit_window: int) -> Decision:
    """Decide whether `target` may be recalled or edited.

    `rank` is the operator's rank in a group; from 1 on, the operator is an admin. A sender may recall or edit the
    message until its window ends. The windows are in ms after the message's time.

    Raises: RuleViolation.
    """
    if target.recalled:
        raise RuleViolation(Code.CONFLICT, "file.data.seq: this message is already recalled")
    own, age = target.sender == change.operator, change.time - target.time
    if change.event == "recall":
        if not (rank or (own and age <= recall_window)):
            raise _refused(own, "recall", recall_window, "the sender or a group admin")
        return Decision(amended=recalled(target, change.seq))
    if not own or age > edit_window:
        raise _refused(own, "edit", edit_window, "the sender")
    content = change.data.get("content")
    if target.type != MessageType.TEXT or not isinstance(content, str) or not content:
        raise RuleViolation(
            Code.BAD_REQUEST, "file.data.content: expected the new text; only text messages can be edited"
        )
    return Decision(amended=edited(target, content, change.seq))


def _refused(own: bool, event: str, window: int, users: str) -> RuleViolation:
    """Return the violation for a message of the operator (`own`) or of another user."""
    if own:
        return RuleViolation(
            Code.EXPIRED, f"{event}: a sender can {event} a message only for {window / 1000:g} s after sending it"
        )
    return RuleViolation(Code.FORBIDDEN, f"{event}: only {users} can {event} this message")
