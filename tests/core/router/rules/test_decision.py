"""A change that is asked for, and the words for what follows from it."""

from __future__ import annotations

import pytest
from core.builders import AB, TEAM, change

from imsim.core.model import Code
from imsim.core.router.rules.decision import Change, Note, RuleViolation, resolved


@pytest.mark.parametrize("operator", ["bob", "", None])
def test_nobody_acts_in_anothers_name(team, operator):
    frame = change("1", "configure", title="x")
    frame.file["operator"] = operator
    team.to(TEAM, frame)
    team.look_up()
    assert team.answers() == [("1", Code.BAD_REQUEST)]
    frame.file["event"] = "unheard of"
    team.to(TEAM, frame)
    assert team.answers() == [("1", Code.BAD_REQUEST)]


def test_a_change_gives_its_id_to_what_follows():
    assert Change(AB, 7, 0, "kick", "alice", (), {}).id == f"{AB}:7"


def test_news_of_an_answer():
    assert resolved(["a", "b"], "x", "passed") == tuple(Note(u, "resolve", {"state": "passed"}, "x") for u in "ab")


def test_a_refusal_says_why():
    refused = RuleViolation(Code.MUTED, "hush")
    assert (refused.code, refused.text, str(refused)) == (Code.MUTED, "hush", "hush")
