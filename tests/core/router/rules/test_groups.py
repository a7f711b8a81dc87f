"""The rules of groups: a table of the changes that each role may make, and random changes against a simple model."""

from __future__ import annotations

from itertools import product

import pytest
from core.builders import TEAM
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imsim.core.model import Code
from imsim.core.router.rules import groups
from imsim.core.router.rules.decision import Change, RuleViolation
from imsim.core.router.rules.groups import Group, Limits, decide, is_silenced

OK = "ok"


DAY = 86_400_000


LIMITS = Limits(size=100, request_lifetime=7 * DAY)


OWNER, ADMIN, MEMBER, OUTSIDER, FORMER, INVITED, APPLICANT, OTHER = (
    *("olga", "adam", "mary", "otto", "fred", "ivan", "anna", "mike"),
)


ROLES = (OWNER, ADMIN, MEMBER, OUTSIDER, FORMER, INVITED, APPLICANT)


class Team:
    """A group that applies each decision, as the writer does."""

    def __init__(self, limits=LIMITS):
        self.state, self.members, self.seq, self.now, self.limits = None, (), 0, 0, limits
        self.decision = None

    def do(self, event, operator, *targets, **data):
        self.decision = decide(
            self.state,
            self.members,
            Change(TEAM, self.seq + 1, self.now, event, operator, targets, data),
            self.limits,
        )
        self.seq += 1
        if self.decision.state is not None:
            self.state = self.decision.state
        left = self.decision.left
        self.members = tuple(user for user in (*self.members, *self.decision.joined) if user not in left)
        return self.decision

    def try_(self, event, operator, *targets, **data):
        """Return OK, or the code of the violation after a check that nothing has changed."""
        before = (self.state, self.members)
        try:
            self.do(event, operator, *targets, **data)
        except RuleViolation as refused:
            code = refused.code
        else:
            return OK
        assert (self.state, self.members) == before
        return code

    @property
    def group(self):
        return Group.of(self.state, self.members)

    def notified(self):
        """Return (user, type, state) of each note of the latest change."""
        return [(note.user, note.type, note.data.get("state", "")) for note in self.decision.notes]


def team(join="invite", consent=False):
    """Return a group with a user in every role, an open invitation and an open application."""
    one = Team()
    one.do("create", OWNER, ADMIN, MEMBER, OTHER, FORMER, join="approval", title="T")
    one.do("configure", OWNER, consent=True)
    one.do("role", OWNER, ADMIN, role="admin")
    one.do("leave", FORMER)
    one.do("invite", OWNER, INVITED)
    one.do("apply", APPLICANT)
    one.do("configure", OWNER, join=join, consent=consent)
    return one


NO, OUT, CONFLICT = Code.FORBIDDEN, Code.NOT_MEMBER, Code.CONFLICT


ADMINS = (OK, OK, NO, OUT, OUT, OUT, OUT)


ONLY_OWNER = (OK, NO, NO, OUT, OUT, OUT, OUT)


NOTHING_TO_ANSWER = (CONFLICT,) * 5


#: (event, targets, data), and the outcome for each of ROLES; if the setting `join` matters, the outcomes by `join`.
TABLE = [
    (("create", (OTHER,), {}), (CONFLICT,) * 7),
    (("configure", (), {"title": "new"}), ADMINS),
    (("configure", (), {"join": "open", "consent": True}), ADMINS),
    (("configure", (), {}), (Code.BAD_REQUEST, Code.BAD_REQUEST, NO, OUT, OUT, OUT, OUT)),
    (
        ("invite", ("zoe",), {}),
        {"invite": ADMINS, "approval": (OK, OK, OK, *(OUT,) * 4), "open": (OK,) * 3 + (OUT,) * 4},
    ),
    (
        ("join", (), {}),
        {"invite": (NO,) * 7, "approval": (NO,) * 7, "open": (CONFLICT,) * 3 + (OK,) * 4},
    ),
    (
        ("apply", (), {}),
        {
            "invite": (CONFLICT,) * 3 + (NO,) * 4,
            "approval": (*(CONFLICT,) * 3, OK, OK, CONFLICT, OK),  # an invited user must accept instead
            "open": (CONFLICT,) * 7,
        },
    ),
    (("accept", (APPLICANT,), {}), ADMINS),
    (("reject", (APPLICANT,), {}), ADMINS),
    (("accept", (INVITED,), {}), (CONFLICT, CONFLICT, NO, OUT, OUT, OUT, OUT)),
    (("reject", (OUTSIDER,), {}), (CONFLICT, CONFLICT, NO, OUT, OUT, OUT, OUT)),
    (("accept", (APPLICANT, INVITED), {}), (Code.BAD_REQUEST, Code.BAD_REQUEST, NO, OUT, OUT, OUT, OUT)),
    (("accept", (), {}), (*NOTHING_TO_ANSWER, OK, CONFLICT)),
    (("reject", (), {}), (*NOTHING_TO_ANSWER, OK, CONFLICT)),
    (("leave", (), {}), (NO, OK, OK, OUT, OUT, OUT, OUT)),
    (("kick", (OTHER,), {}), ADMINS),
    (("kick", (OTHER, OUTSIDER), {}), ADMINS),
    (("kick", (ADMIN,), {}), ONLY_OWNER),
    (("kick", (OTHER, ADMIN), {}), ONLY_OWNER),
    (("kick", (OWNER,), {}), (NO, NO, NO, OUT, OUT, OUT, OUT)),
    (("kick", (OUTSIDER,), {}), (CONFLICT, CONFLICT, NO, OUT, OUT, OUT, OUT)),
    (("kick", (), {}), (Code.BAD_REQUEST, Code.BAD_REQUEST, NO, OUT, OUT, OUT, OUT)),
    (("dismiss", (), {}), ONLY_OWNER),
    (("transfer", (OTHER,), {}), ONLY_OWNER),
    (("transfer", (ADMIN,), {}), ONLY_OWNER),
    (("transfer", (OWNER,), {}), (CONFLICT, NO, NO, OUT, OUT, OUT, OUT)),
    (("transfer", (OUTSIDER,), {}), (CONFLICT, NO, NO, OUT, OUT, OUT, OUT)),
    (("transfer", (OTHER, ADMIN), {}), (Code.BAD_REQUEST, NO, NO, OUT, OUT, OUT, OUT)),
    (("transfer", (), {}), (Code.BAD_REQUEST, NO, NO, OUT, OUT, OUT, OUT)),
    (("role", (OTHER,), {"role": "admin"}), ONLY_OWNER),
    (("role", (ADMIN,), {"role": "member"}), ONLY_OWNER),
    (("role", (OWNER,), {"role": "admin"}), (CONFLICT, NO, NO, OUT, OUT, OUT, OUT)),
    (("role", (OTHER,), {"role": "owner"}), (Code.BAD_REQUEST, NO, NO, OUT, OUT, OUT, OUT)),
    (("mute", (), {}), ADMINS),
    (("unmute", (), {}), ADMINS),
    (("mute", (OTHER,), {}), ADMINS),
    (("mute", (ADMIN,), {}), ONLY_OWNER),
    (("mute", (OWNER,), {}), (NO, NO, NO, OUT, OUT, OUT, OUT)),
    (("mute", (OUTSIDER,), {}), (CONFLICT, CONFLICT, NO, OUT, OUT, OUT, OUT)),
    (("unmute", (ADMIN,), {}), ONLY_OWNER),
    (("recall", (), {"seq": 1}), (Code.BAD_REQUEST,) * 7),
    (("unheard_of", (), {}), (Code.BAD_REQUEST,) * 7),
    (("kick", ("no:name",), {}), (Code.BAD_REQUEST,) * 7),
]


@pytest.mark.parametrize(
    ("operator", "event", "targets", "data", "text"),
    [
        (OWNER, "kick", (OWNER,), {}, "kick: a user cannot kick themselves"),
        (ADMIN, "kick", (OTHER, ADMIN), {}, "kick: a user cannot kick themselves"),
        (ADMIN, "mute", (ADMIN,), {}, "mute: a user cannot mute themselves"),
        (ADMIN, "mute", (OWNER,), {}, "mute: an admin cannot mute the owner or another admin"),
        (OWNER, "transfer", (OWNER,), {}, "file.targets: an owner cannot transfer a group to themselves"),
        (OWNER, "transfer", (OTHER, ADMIN), {}, "file.targets: expected at most 1 (got 2)"),
        (OWNER, "role", (OWNER,), {"role": "member"}, "file.targets: an owner cannot change their own role"),
        (OWNER, "role", (OUTSIDER,), {"role": "admin"}, "file.targets: none of these users is a member of this group"),
        (OWNER, "invite", (OWNER,), {}, "file.targets: all these users are already members"),
        (OWNER, "kick", (), {}, "file.targets: expected at least one user"),
        (OWNER, "configure", (), {"titel": "x"}, "file.data: expected title, join or consent (got titel)"),
        (OUTSIDER, "leave", (), {}, f"to: you are not a member of {TEAM}, or there is no such conversation"),
        (MEMBER, "dismiss", (), {}, "file.event: only the owner may send dismiss"),
        (MEMBER, "kick", (OWNER,), {}, "file.event: only the owner or an admin may send kick"),
        (
            *(INVITED, "accept", (INVITED,), {}),
            "file.targets: to accept your own invitation, send no targets",
        ),
        (
            *(OWNER, "accept", (OUTSIDER,), {}),
            "accept: there is no application of this user; it may have been answered already",
        ),
        (OUTSIDER, "accept", (), {}, "accept: there is no invitation for you; it may have been answered already"),
    ],
)
def test_refused_change_has_a_text_that_names_the_reason(operator, event, targets, data, text):
    with pytest.raises(RuleViolation) as refused:
        team().do(event, operator, *targets, **data)
    assert refused.value.text == text


def test_table_has_every_event():
    assert {event for (event, *_), _ in TABLE} >= set(groups.EVENTS)


@pytest.mark.parametrize("consent", [False, True])
@pytest.mark.parametrize("join", ["open", "approval", "invite"])
@pytest.mark.parametrize(("asked", "expected"), TABLE, ids=[f"{asked[0]}-{asked[1:]}" for asked, _ in TABLE])
def test_each_event_is_allowed_by_role(asked, expected, join, consent):
    event, targets, data = asked
    row = expected[join] if isinstance(expected, dict) else expected
    found = tuple(team(join, consent).try_(event, role, *targets, **data) for role in ROLES)
    assert found == row


@pytest.mark.parametrize(("event", "who"), list(product(groups.EVENTS, ROLES)))
def test_missing_group_answers_like_a_group_that_the_user_is_a_stranger_to(event, who):
    dismissed = team()
    dismissed.do("dismiss", OWNER)
    for nothing in (Team(), dismissed):
        expected = OK if event == "create" else team("invite").try_(event, OUTSIDER, OTHER)
        assert nothing.try_(event, who, OTHER) == expected


def test_first_founder_owns_a_group_without_state():
    assert Group.of(None, ("carol", "bob")).owner == "carol"
    founded = Team()
    founded.members = ("carol", "bob")
    assert founded.try_("configure", "carol", title="x") == OK
    assert founded.try_("configure", "bob", title="x") == NO


# --- effects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad", [{"title": 7}, {"title": "x" * 257}, {"title": None}, {"join": "never"}, {"join": ["open"]}, {"consent": 1}]
)
def test_invalid_settings_of_a_group_are_refused(bad):
    assert team().try_("configure", OWNER, **bad) == Code.BAD_REQUEST
    assert Team().try_("create", OWNER, **bad) == Code.BAD_REQUEST
    good = team()
    good.do("configure", OWNER, title="x" * 256)
    assert (good.group.title, good.group.join, good.group.consent) == ("x" * 256, "invite", False)


def test_an_invitation_answers_an_application_and_replaces_an_invitation():
    one = team()
    one.do("invite", ADMIN, APPLICANT, INVITED)
    assert one.notified() == [
        *((OWNER, "resolve", "passed"), (ADMIN, "resolve", "passed"), (INVITED, "resolve", "passed")),
        *((APPLICANT, "group_invite", ""), (INVITED, "group_invite", "")),
    ]
    two = team(consent=True)
    two.do("invite", ADMIN, INVITED)
    assert two.notified() == [(INVITED, "resolve", "expired"), (INVITED, "group_invite", "init")]
    two.do("reject", INVITED)
    assert two.notified() == [(INVITED, "resolve", "rejected"), (ADMIN, "group_rejected", "")]


def test_join_answers_the_users_own_application():
    """The group became open after the application, so no admin has to answer it."""
    one = team("open")
    one.do("join", APPLICANT)
    assert one.decision.joined == (APPLICANT,)
    assert one.notified() == [(OWNER, "resolve", "passed"), (ADMIN, "resolve", "passed")]
    assert one.group.pending.keys() == {INVITED}
    one.do("join", OUTSIDER)
    assert one.notified() == []


@pytest.mark.parametrize("event", ["accept", "reject"])
@pytest.mark.parametrize(("late", "expected"), [(-1, OK), (0, Code.EXPIRED), (1, Code.EXPIRED)])
def test_late_answer_is_refused(event, late, expected):
    for operator, targets in ((OWNER, (APPLICANT,)), (INVITED, ())):
        one = team("approval")
        one.now = 7 * DAY + late
        assert one.try_(event, operator, *targets) == expected


def test_kicked_users_are_notified_and_lose_their_roles():
    one = team()
    one.do("mute", OWNER, OTHER)
    one.do("kick", OWNER, ADMIN, OTHER, OUTSIDER)
    assert one.decision.left == (ADMIN, OTHER)
    assert one.notified() == [(ADMIN, "group_kicked", ""), (OTHER, "group_kicked", "")]
    one.do("invite", OWNER, ADMIN, OTHER)
    assert (one.group.admins, one.group.muted) == ([], [OTHER])  # leaving and returning must not unmute a user
    one.do("kick", OWNER, OTHER)
    one.do("unmute", OWNER, OTHER)
    assert one.group.muted == []


def test_number_of_muted_users_is_bounded_by_group_size():
    one = Team(Limits(size=2, request_lifetime=10))
    one.do("create", OWNER)
    for user in (MEMBER, OTHER):
        one.do("invite", OWNER, user)
        one.do("mute", OWNER, user)
        one.do("kick", OWNER, user)
    one.do("invite", OWNER, ADMIN)
    assert one.try_("mute", OWNER, ADMIN) == Code.TOO_LARGE


def test_dismissal_removes_members_and_requests():
    one = team()
    one.do("dismiss", OWNER)
    assert set(one.decision.left) == {OWNER, ADMIN, MEMBER, OTHER}
    assert sorted(one.notified()) == sorted(
        [
            *((user, "resolve", "expired") for user in (OWNER, ADMIN, INVITED)),
            *((user, "group_dismissed", "") for user in (ADMIN, MEMBER, OTHER)),
        ]
    )
    assert one.members == ()
    assert one.group.pending == {}


def test_transfer_makes_the_old_owner_a_member():
    one = team()
    one.do("transfer", OWNER, ADMIN)
    assert (one.group.owner, one.group.admins) == (ADMIN, [])
    assert one.try_("kick", OWNER, OTHER) == NO
    assert one.try_("leave", OWNER) == OK


def test_mute_silences_named_members_or_all():
    one = team()
    assert not is_silenced(None, MEMBER)
    one.do("mute", ADMIN, MEMBER, MEMBER)
    one.do("mute", ADMIN, MEMBER)
    assert one.group.muted == [MEMBER]
    assert [is_silenced(one.state, user) for user in ROLES[:3]] == [False, False, True]
    assert not is_silenced(one.state, OTHER)
    one.do("mute", ADMIN)
    assert is_silenced(one.state, OTHER)
    assert not is_silenced(one.state, OWNER)
    one.do("unmute", ADMIN)
    assert not is_silenced(one.state, OTHER)
    assert is_silenced(one.state, MEMBER)
    one.do("role", OWNER, MEMBER, role="admin")
    assert not is_silenced(one.state, MEMBER)
    one.do("unmute", OWNER, MEMBER)
    assert one.group.muted == []


def test_size_limit_applies_only_to_joining():
    one = Team(Limits(2, DAY))
    assert one.try_("create", "a", "b", "c") == Code.TOO_LARGE
    assert one.try_("create", "a", "b") == OK
    assert one.try_("invite", "a", "c") == Code.TOO_LARGE
    one.limits = Limits(1, DAY)  # the limit was lowered
    assert one.try_("configure", "a", title="x") == OK
    assert one.try_("mute", "a", "b") == OK
    one.limits = Limits(0, DAY)
    assert one.try_("kick", "a", "b") == OK


def test_a_decision_does_not_modify_the_state_before_it():
    one = team("approval")
    for event, operator, targets, data in (
        ("role", OWNER, (MEMBER,), {"role": "admin"}),
        ("accept", OWNER, (APPLICANT,), {}),
        ("mute", OWNER, (OTHER,), {}),
        ("dismiss", OWNER, (), {}),
    ):
        before = Group.of(one.state, one.members).to_dict()
        state = one.state
        one.do(event, operator, *targets, **data)
        assert state == before
        assert one.state is not state


# --- random changes -------------------------------------------------------------------------------------------------


USERS = [f"u{number}" for number in range(6)]


some = st.lists(st.sampled_from(USERS), max_size=3)


def test_expired_requests_make_room_and_pending_requests_are_bounded():
    one = Team(Limits(size=3, request_lifetime=10))
    one.do("create", OWNER, join="approval")
    for user in (MEMBER, OTHER):
        one.do("apply", user)
    assert one.try_("apply", APPLICANT) == Code.TOO_LARGE
    one.now = 10
    one.do("apply", APPLICANT)
    assert one.notified() == [
        (OWNER, "resolve", "expired"),
        (OWNER, "resolve", "expired"),
        (OWNER, "group_apply", "init"),
    ]
    assert list(one.group.pending) == [APPLICANT]


class GroupStorm(RuleBasedStateMachine):
    """Random changes by random users.

    The model has the members, the owner, the admins and the open requests. It has no rules of its own, but checks each
    decision.
    """

    @initialize(join=st.sampled_from(("open", "approval", "invite")), consent=st.booleans())
    def make(self, join, consent):
        self.team = Team(Limits(4, 10))
        self.team.do("create", USERS[0], USERS[1], join=join, consent=consent)
        self.asked = {}  # id of a system message -> the users who have it, and no answer to it
        self.follow_notes()

    @rule(
        event=st.sampled_from(groups.EVENTS),
        operator=st.sampled_from(USERS),
        users=some,
        data=st.sampled_from(({}, {"role": "admin"}, {"role": "member"}, {"join": "open"}, {"join": "approval"})),
        consent=st.none() | st.booleans(),
    )
    def try_(self, event, operator, users, data, consent):
        before, members = self.team.group, set(self.team.members)
        data = data if consent is None else {**data, "consent": consent}
        if self.team.try_(event, operator, *users, **data) != OK:
            return
        joined, left, after = set(self.team.decision.joined), set(self.team.decision.left), self.team.group
        assert not joined & members
        assert left <= members
        assert set(self.team.members) == (members | joined) - left
        assert len(self.team.decision.joined) == len(joined)
        rank = before.rank(operator) if operator in members else -1
        if event != "create":
            assert all(before.rank(user) < rank or (user == operator and event == "leave") for user in left) or (
                event == "dismiss" and rank == 2
            )
            assert rank == 2 or (after.owner, set(after.admins)) == (before.owner, set(before.admins) - left)
            assert rank >= 1 or (after.title, after.join, after.muted_all) == (
                before.title,
                before.join,
                before.muted_all,
            )
            assert joined <= {*users, operator}
            for user in joined:  # each of them agreed, and the group accepted each of them
                if user == operator:
                    was_asked = user in before.pending and before.pending[user]["kind"] == "invite"
                    assert before.join == "open" or was_asked
                else:
                    request = before.pending.get(user, {"kind": "", "expires": 0})
                    applied = request["kind"] == "apply" and self.team.now < request["expires"]
                    assert rank >= 1 or before.join != "invite"
                    assert not before.consent or (applied and event in ("accept", "invite"))
            named = set(users) & {"mute": members, "unmute": {*before.muted}}.get(event, set())
            assert all(before.rank(user) < rank for user in named)
            assert set(after.muted) == ({*before.muted} | named if event == "mute" else {*before.muted} - named)
        else:
            assert not after.muted
        self.follow_notes()

    def follow_notes(self):
        """Each user who received a request gets its resolution once, when nobody can answer it any longer."""
        change = f"{TEAM}:{self.team.seq}"
        keys = [(note.user, note.resolves or change) for note in self.team.decision.notes]
        assert len(keys) == len(set(keys))
        for note in self.team.decision.notes:
            if note.resolves:
                self.asked[note.resolves].remove(note.user)
                assert note.data["state"] in ("passed", "rejected", "expired")
            elif note.data.get("state") == "init":
                self.asked.setdefault(change, set()).add(note.user)

    @rule(time=st.integers(0, 6))
    def wait(self, time):
        self.team.now += time

    @invariant()
    def state_is_consistent(self):
        group, members = self.team.group, self.team.members
        assert len(members) == len(set(members)) <= 4
        if members:
            assert group.owner in members
        assert set(group.admins) <= set(members) - {group.owner} or not members
        assert len(group.admins) == len(set(group.admins))
        assert len(group.muted) == len(set(group.muted)) <= 4  # former members included
        assert not set(group.pending) & set(members)

    @invariant()
    def open_requests_match_pending(self):
        open_ = {}
        for pending in self.team.group.pending.values():
            open_.setdefault(f"{TEAM}:{pending['seq']}", set()).update(pending["notified"])
        assert {id: users for id, users in self.asked.items() if users} == open_

    def teardown(self):
        if hasattr(self, "team") and self.team.members:
            self.team.do("dismiss", self.team.group.owner)
            self.follow_notes()
            assert not any(self.asked.values())


GroupStorm.TestCase.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


TestGroupStorm = GroupStorm.TestCase
