"""Answers: they name their request, and are sent to the gateway of the session that sent it."""

from __future__ import annotations

from core.builders import send, session, up

from imsim.core import frames
from imsim.core.internal_frames import Down
from imsim.core.model import Code
from imsim.core.router import answers
from imsim.testing import RecordingPort


def test_answer_names_its_request():
    port, one = RecordingPort(), session(gateway="g7")
    answers.done(port, up(one, frames.Read("c", 3, 9)))
    answers.reject(port, up(one, send("1")), Code.RATE_LIMITED, "too many", 2.5)
    assert port.take() == [
        ("to_gateway", ("g7", Down((one,), frames.Done("read", "c", 9)))),
        ("to_gateway", ("g7", Down((one,), frames.Rejected("send", "1", Code.RATE_LIMITED, "too many", 2.5)))),
    ]
