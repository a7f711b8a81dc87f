"""Groups in the end: who is in them, as storage has it and as the log says."""

from __future__ import annotations

from collections.abc import Iterator

from imsim.faultsearch.evidence import Evidence


def members_are_those_of_the_log(evidence: Evidence) -> Iterator[str]:
    """Storage agrees with a replay of the log, about members and about who may see what."""
    for conversation, log in evidence.world.logs.items():
        members = evidence.model.members_of(conversation)
        if set(log.members) != set(members) or len(log.members) != len(members):
            yield f"{conversation} has the members {log.members}, not {members}"
        for user in evidence.world.case.users:
            seqs = [message.seq for message in evidence.model.view(user, conversation)]
            if log.seen.get(user, []) != seqs:
                yield f"{conversation} is seen by {user} as {log.seen.get(user, [])}, not {seqs}"


def every_group_has_one_owner(evidence: Evidence) -> Iterator[str]:
    for conversation, log in evidence.world.logs.items():
        if conversation.startswith("group:") and log.members:
            owner = (log.state or {}).get("owner")
            if owner != evidence.model.states[conversation][-1].owner or owner not in log.members:
                yield f"{conversation} is owned by {owner}, not {evidence.model.states[conversation][-1].owner}"


def friends_are_those_of_the_log(evidence: Evidence) -> Iterator[str]:
    for conversation, log in evidence.world.logs.items():
        if conversation.startswith("p2p:"):
            friends = bool((log.state or {}).get("friends"))
            if friends != evidence.model.states[conversation][-1].friends:
                yield f"{conversation} is between friends: {friends}, which its log does not say"
