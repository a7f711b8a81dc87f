"""Tests of `Session`. They run in a subprocess, because this process must not import gevent."""

from __future__ import annotations

PROGRAM = """
from types import SimpleNamespace
import gevent
from imsim.load import session

times = iter([1.0, 1.1, 1.2, 1.3, 1.4, 1.5])
session.now = lambda: next(times)
sent = []

def direct():
    for due in (0.8, 0.9, 5.0):
        director._next_due = due
        if due > 1.0:
            gevent.sleep(1000)
        gevent.sleep(0)
        sent.append(due)

director = session.Session.__new__(session.Session)
director.scenario = SimpleNamespace(drain=10.0)
director._next_due = None
director._director = gevent.spawn(direct)
gevent.sleep(0)
director._stopped = 1.0
director._wait_for_late_messages()
print(sent)
"""


def test_stop_waits_for_messages_that_were_due_before_it(python):
    """The sending greenlet may be late; a message that was due just before the stop must still be sent."""
    assert python(PROGRAM) == "[0.8, 0.9]\n"
