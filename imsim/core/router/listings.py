"""The pages that answer `group` and `friends`, from the records of storage."""

from __future__ import annotations

from imsim.core import frames, storage
from imsim.core.model import Role
from imsim.core.router.rules.groups import Group


def group_page(request: storage.ReadGroup, record: storage.GroupRecord, number: int) -> frames.GroupPage:
    """Return the answer to a `group` with this number."""
    group = Group.of(record.state, (record.first,))
    admins, muted = frozenset(group.admins), frozenset(group.muted)
    members = []
    for user in record.members:
        role = Role.OWNER if user == group.owner else Role.ADMIN if user in admins else Role.MEMBER
        members.append(frames.GroupMember(user, role, user in muted))
    return frames.GroupPage(
        request.conversation_id,
        record.max_seq,
        group.owner,
        record.count,
        members,
        request.after,
        group.title,
        frames.GroupSettings(group.join, group.consent, group.muted_all),
        record.members[-1] if record.more else "",
        number,
    )


def friends_page(request: storage.ReadFriends, record: storage.FriendsRecord, number: int) -> frames.FriendsPage:
    """Return the answer to a `friends` with this number."""
    friends, requests = [], []
    for user, blocked, state in record.users:
        if state["friends"]:
            friends.append(frames.Friend(user, blocked))
        else:
            pending = state["request"]
            requests.append(frames.FriendRequest(user, pending["by"], pending["id"], pending["expires"]))
    after = record.users[-1][0] if record.more else ""
    return frames.FriendsPage(friends, requests, request.after, after, number)
