"""Policies: their names, and the decisions that they make."""

from __future__ import annotations

import pytest

from imsim.core.policies import Ack, Policies, Receipts, Sessions, Strangers


def test_a_choice_can_be_given_by_its_name():
    assert Policies(ack="after_receive").ack is Ack.AFTER_RECEIVE
    assert Policies(ack="after_receive") == Policies(ack=Ack.AFTER_RECEIVE)


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match="'never' is not a valid Ack"):
        Policies(ack="never")


@pytest.mark.parametrize(
    ("sessions", "slot", "is_shared"),
    [(Sessions.ALL, "d0", False), (Sessions.ONE_PER_KIND, "phone", True), (Sessions.SINGLE, "", True)],
)
def test_policy_sessions_decides_the_slot_of_a_device(sessions, slot, is_shared):
    assert (sessions.slot("d0", "phone"), sessions.has_shared_slots) == (slot, is_shared)


def test_only_the_policy_refuse_requires_friendship():
    assert [Strangers(one).may_write(are_friends=False) for one in ("allow", "refuse")] == [True, False]
    assert Strangers.REFUSE.may_write(are_friends=True)


@pytest.mark.parametrize(("receipts", "are_wanted"), [(Receipts.READ, False), (Receipts.DELIVERED, True)])
def test_delivered_marks_of_p2p_conversations_are_passed_on_only_under_delivered_receipts(receipts, are_wanted):
    assert [receipts.concern(id) for id in ("p2p:ann:bob", "group:team")] == [are_wanted, False]
    assert list(receipts.marks({"p2p:ann:bob": 3})) == [("p2p:ann:bob", 3)] * are_wanted
    assert receipts.acknowledge_syncs is are_wanted
