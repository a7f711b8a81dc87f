"""Groups, chatrooms and friends, as `imsim.Client` gives access to them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from imsim.core import events, frames
from imsim.core.exceptions import UsageError
from imsim.core.model import Scene, check_name, p2p_id
from imsim.live.client.session import Session
from imsim.live.client.views import Message, Public


class Member(NamedTuple):
    """A member of a group: `role` is owner, admin or member; `muted` says whether the member cannot write."""

    user: str
    role: str
    muted: bool


@dataclass(frozen=True, slots=True)
class GroupInfo(Public):
    """The state of a group.

    `title` is its display name. `join` says how users become members: `open`, `approval` or `invite`. With `consent`,
    invited users must accept first. With `muted_all`, only the owner and the admins can write. `members` are sorted by
    name.
    """

    name: str
    title: str
    owner: str
    join: str
    consent: bool
    muted_all: bool
    members: list[Member]


class Friend(NamedTuple):
    """A friend. `blocked` says whether this user refuses messages of the friend."""

    user: str
    blocked: bool


class FriendRequest(NamedTuple):
    """An unanswered friend request with `user`, which `by` has sent. It expires at a time in ms since 1970."""

    user: str
    by: str
    expires: int


# The method Friends.list hides the built-in type there.
_Friends = list[Friend]
_Requests = list[FriendRequest]
_Pages = list[frames.FriendsPage]
_Names = list[str]


class Group(Public):
    """A group, by its name. It need not exist yet.

    Every method returns once the server has stored the change. It raises SendError if the server refuses, such as
    `forbidden` if the role of this user does not allow the change.
    """

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = check_name("group", name)

    @property
    def id(self) -> str:
        """The id of the conversation: `group:<name>`."""
        return f"group:{self.name}"

    async def create(self, *members: str, title: str = "", join: str = "invite", consent: bool = False) -> Message:
        """Create the group with this user as owner.

        Args:
            members: the users to add.
            title: the display name.
            join: how other users become members: `open`, `approval` or `invite`.
            consent: whether the members must accept first.
        """
        data: dict[str, object] = {"title": title, "join": join, "consent": consent}
        return await self._change("create", members, data)

    async def info(self) -> GroupInfo:
        """Return the title, the settings, and all members with their roles. Only members can see them."""
        members: list[frames.GroupMember] = []
        page: frames.GroupPage | None = None
        while page is None or page.next:
            page = await self._page(page.next if page is not None else "")
            members += page.members
        settings = page.settings
        return GroupInfo(
            self.name,
            page.title,
            page.owner,
            str(settings.join),
            settings.consent,
            settings.muted_all,
            [Member(member.user, str(member.role), member.muted) for member in members],
        )

    async def _page(self, after: str) -> frames.GroupPage:
        machine, asked = self._session.device.machine, frames.Group(self.id, after)
        event: events.Group = await self._session.ask(
            asked.op, asked.ref, lambda now: machine.group(self.name, after, now), f"state of {self.id}"
        )
        return event.page

    async def configure(
        self, *, title: str | None = None, join: str | None = None, consent: bool | None = None
    ) -> Message:
        """Change the given settings.

        Args:
            title: the display name.
            join: how users become members: `open`, `approval` or `invite`.
            consent: whether invited users must accept first.
        """
        given = {"title": title, "join": join, "consent": consent}
        return await self._change("configure", (), {name: value for name, value in given.items() if value is not None})

    async def rename(self, title: str) -> Message:
        """Change the display name.

        Args:
            title: the new one.
        """
        return await self.configure(title=title)

    async def invite(self, *users: str) -> Message:
        """Add users, or invite them if the group requires their consent.

        Args:
            users: their names.
        """
        return await self._change("invite", users)

    async def remove(self, *users: str) -> Message:
        """Remove members.

        Args:
            users: their names.
        """
        return await self._change("kick", users)

    async def join(self) -> Message:
        """Become a member of a group that is open."""
        return await self._change("join")

    async def apply(self) -> Message:
        """Ask the owner and the admins for membership."""
        return await self._change("apply")

    async def accept(self, user: str | None = None) -> Message:
        """Accept an application, or an invitation.

        Args:
            user: the applicant; None accepts the invitation of this user.
        """
        return await self._change("accept", () if user is None else (user,))

    async def reject(self, user: str | None = None) -> Message:
        """Reject an application, or an invitation.

        Args:
            user: the applicant; None rejects the invitation of this user.
        """
        return await self._change("reject", () if user is None else (user,))

    async def leave(self) -> Message:
        """Leave the group. The owner cannot leave: transfer or dismiss the group first."""
        return await self._change("leave")

    async def dismiss(self) -> Message:
        """End the group for all members."""
        return await self._change("dismiss")

    async def transfer(self, user: str) -> Message:
        """Make another member the owner.

        Args:
            user: the member.
        """
        return await self._change("transfer", (user,))

    async def set_role(self, role: str, *users: str) -> Message:
        """Change the role of members.

        Args:
            role: `admin` or `member`.
            users: their names.
        """
        if role not in ("admin", "member"):
            raise UsageError(f"role: must be admin or member, before the names of the users (got {role!r})")
        return await self._change("role", users, {"role": role})

    async def mute(self, *users: str) -> Message:
        """Forbid members to write.

        Args:
            users: their names; none for all members except the owner and the admins.
        """
        return await self._change("mute", users)

    async def unmute(self, *users: str) -> Message:
        """Allow members to write again.

        Args:
            users: their names; none ends a mute of all.
        """
        return await self._change("unmute", users)

    async def _change(self, event: str, users: tuple[str, ...] = (), data: dict[str, object] | None = None) -> Message:
        for user in users:
            check_name("user", user)
        return await self._session.change(Scene.GROUP, self.name, event, users, data)

    def __repr__(self) -> str:
        return f"<Group {self.name}>"


class Chatroom(Public):
    """A chatroom, by its name. The server stores nothing: a message goes to the devices that are in the room."""

    def __init__(self, session: Session, name: str) -> None:
        self._session = session
        self.name = check_name("chatroom", name)

    @property
    def id(self) -> str:
        """The id of the conversation: `chatroom:<name>`."""
        return f"chatroom:{self.name}"

    async def enter(self, recent: int = 0) -> int:
        """Enter the room and return the number of its users. The client enters it again after each login.

        Args:
            recent: how many of the latest messages to receive; they arrive like new ones.
        """
        if not isinstance(recent, int) or recent < 0:
            raise UsageError(f"recent: must be a number of messages, 0 or more (got {recent!r})")
        machine = self._session.device.machine
        entered: events.Entered = await self._session.ask(
            frames.Enter.op, self.name, lambda now: machine.enter(self.name, now, recent), f"entry of {self.id}"
        )
        return entered.users

    async def leave(self) -> None:
        """Leave the room."""
        machine = self._session.device.machine
        await self._session.ask(
            frames.Leave.op, self.name, lambda now: machine.leave(self.name, now), f"leaving {self.id}"
        )

    def __repr__(self) -> str:
        return f"<Chatroom {self.name}>"


class Friends(Public):
    """The friends of the user, and the requests between users."""

    def __init__(self, session: Session) -> None:
        self._session = session

    async def list(self) -> _Friends:
        """Return the friends, sorted by name."""
        return [Friend(one.user, one.blocked) for page in await self._pages() for one in page.friends]

    async def requests(self) -> _Requests:
        """Return the requests that this user has sent or received, and that have no answer yet."""
        return [FriendRequest(one.user, one.by, one.expires) for page in await self._pages() for one in page.requests]

    @property
    def online(self) -> _Names:
        """The friends who are online. It is empty unless the server reports presence (`policies.presence`)."""
        return sorted(self._session.online)

    async def request(self, user: str) -> Message:
        """Ask another user to be friends.

        Args:
            user: the other user.
        """
        return await self._change("friend_request", user)

    async def accept(self, user: str) -> Message:
        """Accept the request of another user.

        Args:
            user: the other user.
        """
        return await self._change("friend_accept", user)

    async def reject(self, user: str) -> Message:
        """Reject the request of another user.

        Args:
            user: the other user.
        """
        return await self._change("friend_reject", user)

    async def delete(self, user: str) -> Message:
        """End the friendship with another user.

        Args:
            user: the other user.
        """
        return await self._change("friend_delete", user)

    async def block(self, user: str) -> None:
        """Refuse messages of another user from now on.

        Args:
            user: the other user, friend or not.
        """
        await self._block(user, True)

    async def unblock(self, user: str) -> None:
        """Accept messages of another user again.

        Args:
            user: the other user.
        """
        await self._block(user, False)

    async def _change(self, event: str, user: str) -> Message:
        return await self._session.change(Scene.P2P, check_name("user", user), event)

    async def _block(self, user: str, blocked: bool) -> None:
        await self._session.set_conversation(p2p_id(self._session.user, check_name("user", user)), blocked=blocked)

    async def _pages(self) -> _Pages:
        pages: _Pages = []
        while not pages or pages[-1].next:
            pages.append(await self._page(pages[-1].next if pages else ""))
        return pages

    async def _page(self, after: str) -> frames.FriendsPage:
        machine = self._session.device.machine
        event: events.Friends = await self._session.ask(
            frames.Friends.op, after, lambda now: machine.friends(after, now), "list of friends"
        )
        return event.page

    def __repr__(self) -> str:
        return f"<Friends of {self._session.user}>"
