"""The change that a message requests."""

from __future__ import annotations

import pytest
from core.builders import TEAM, change

from imsim.core.model import Code


@pytest.mark.parametrize("operator", ["bob", "", None])
def test_change_with_another_operator_than_the_sender_is_refused(team, operator):
    frame = change("1", "configure", title="x")
    frame.file["operator"] = operator
    team.to(TEAM, frame)
    team.look_up()
    assert team.answers() == [("1", Code.BAD_REQUEST)]
    frame.file["event"] = "unheard of"
    team.to(TEAM, frame)
    assert team.answers() == [("1", Code.BAD_REQUEST)]
