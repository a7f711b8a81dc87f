"""A short scenario with every action of users, and a check of the storage after a run of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from itertools import pairwise

from imsim.core.storage import Find, LogState, OpenConversation
from imsim.core.storage.memory import MemoryStorage
from imsim.live.stores.tables import SqliteStorage
from imsim.scenario import Plan, Scenario

#: About 180 messages and 56 actions of 20 users.
SCENARIO = Scenario.load(
    "social",
    {
        "seed": 2,
        "duration": "3s",
        "warmup": "0s",
        "population.users": 20,
        "conversations.groups": 6,
        "conversations.group_size": 5,
        "conversations.room_size": 8,
        "conversations.churn": 0.7,
        "conversations.friend_requests": 0.2,
        "workload.rate": 3.0,
        "workload.types": dict.fromkeys(("text", "image", "audio", "video", "file", "geo", "custom"), 1),
        "workload.recalls": 0.1,
        "workload.edits": 0.8,
        "workload.amended_after": "700ms",
    },
)

_SETTLED = 0.2e9  # ns; an action is certainly complete after this time


def check_storage(
    plan: Plan,
    storage: MemoryStorage | SqliteStorage,
    named: Callable[[str], str] = str,
    id_client: Callable[[int], str] = str,
) -> None:
    """Check that storage contains the result of every action of the plan.

    named: returns the name of a user or group of the plan in the storage.
    id_client: returns the `id_client` of a message of the plan.
    """

    def opened(scene: str, *names: str) -> LogState | None:
        state = storage.execute(OpenConversation(":".join([scene, *map(named, names)])))
        assert state is None or isinstance(state, LogState)
        return state

    happened = defaultdict(int)
    for room in plan.rooms:
        assert opened("chatroom", room.name) is None, "storage contains a chatroom"

    amended = {action.intent: action.kind for action in plan.actions if action.intent >= 0}
    for intent in range(len(plan)):
        if plan.to_room[intent]:
            continue
        conversation, sender = plan.conversations[plan.conversation[intent]], plan.users[plan.sender[intent]]
        names = [conversation.name] if conversation.name else [plan.users[user] for user in conversation.members]
        id = ":".join([conversation.scene, *sorted(map(named, names))])
        message = storage.execute(Find(id, named(sender), id_client(intent)))
        kind = amended.get(intent, "")
        happened[kind] += 1
        type, size = plan.types[plan.type[intent]], int(plan.size[intent])
        assert (message.type, message.recalled) == (type, kind == "recall")
        assert bool(message.amended) == (kind != "")
        if type == "text" and kind != "recall":
            assert message.content == ("e" if kind == "edit" else "x") * size

    for action in plan.actions:
        if action.kind == "friend_request":
            names = sorted(named(plan.users[user]) for user in (action.user, action.other))
            assert storage.execute(OpenConversation(":".join(["p2p", *names]))).state["friends"] is True
            happened["friend_request"] += 1

    for number, group in enumerate(plan.conversations):
        changes = [action for action in plan.actions if action.conversation == number]
        if not changes or any(later.at - action.at < _SETTLED for action, later in pairwise(changes)):
            continue  # if a guest leaves before the invitation is complete, the guest stays a member
        members = {named(plan.users[user]) for user in group.members}
        if changes[-1].kind == "invite":
            members.add(named(plan.users[changes[-1].other]))
        assert set(opened("group", group.name).members) == members
        for action in changes:
            happened[action.kind] += 1
    assert min(happened[kind] for kind in ("", "recall", "edit", "invite", "leave", "friend_request")) >= 2, happened
