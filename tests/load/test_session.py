"""The director of a load, in a subprocess: gevent's loop is none for this one."""

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
director._catch_up()
print(sent)
"""


def test_who_stops_a_load_waits_for_what_was_due_by_then(python):
    """The one who sends may be late, and what was due a moment before the end is no message that was never sent."""
    assert python(PROGRAM) == "[0.8, 0.9]\n"
