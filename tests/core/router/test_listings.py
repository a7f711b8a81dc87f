"""The pages that answer `group` and `friends`."""

from __future__ import annotations

from core.builders import TEAM

from imsim.core import frames, storage
from imsim.core.model import Role
from imsim.core.router.listings import friends_page, group_page
from imsim.core.router.rules.groups import Group

READ = storage.ReadGroup("ann", TEAM, "a", 2)


def test_group_without_a_state_belongs_to_its_first_member():
    page = group_page(READ, storage.GroupRecord(7, None, "zoe", 3, ("ann", "bob"), more=True), 5)
    members = [frames.GroupMember("ann"), frames.GroupMember("bob")]
    assert page == frames.GroupPage(TEAM, 7, "zoe", 3, members, "a", next="bob", number=5)


def test_page_of_a_group_has_the_role_and_mute_of_each_member():
    group = Group("ann", "Team", "open", True, ["bob"], ["cy", "gone"], True)
    page = group_page(READ, storage.GroupRecord(9, group.to_dict(), "bob", 3, ("ann", "bob", "cy")), 0)
    assert page.members == [
        frames.GroupMember("ann", Role.OWNER),
        frames.GroupMember("bob", Role.ADMIN),
        frames.GroupMember("cy", Role.MEMBER, muted=True),
    ]
    assert (page.title, page.settings, page.next) == ("Team", frames.GroupSettings("open", True, True), "")


def test_page_of_friends_has_friends_and_requests_apart():
    request = {"by": "cy", "id": "p2p:ann:cy:1", "expires": 9}
    users = (
        ("bob", True, {"friends": True, "request": None}),
        ("cy", False, {"friends": False, "request": request}),
    )
    page = friends_page(storage.ReadFriends("ann", "", 2), storage.FriendsRecord(users, more=True), 4)
    asked = frames.FriendRequest("cy", "cy", "p2p:ann:cy:1", 9)
    assert page == frames.FriendsPage([frames.Friend("bob", True)], [asked], "", "cy", 4)
