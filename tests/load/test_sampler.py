"""The sampler in a Locust process, with a loop that is blocked on purpose."""

from __future__ import annotations

import json

import pytest

from imsim.load.health import Health

PROGRAM = """
from gevent import monkey
monkey.patch_all()
import json, sys, time
import gevent
from imsim.load import sampler

if sys.argv[1] == "timer":
    sampler.open_timer = lambda: None
recorded = [0]
found = sampler.Sampler(lambda: recorded[0])
t0 = time.perf_counter()
found.begin(t0, warmup=0.2)

def work():
    gevent.sleep(0.5)
    for _ in range(3):
        end = time.perf_counter() + 0.2
        while time.perf_counter() < end:  # no other greenlet runs
            pass
        recorded[0] += 100
        gevent.sleep(0.05)

gevent.spawn(work).join()
gevent.sleep(0.6)
health = found.report()
found.stop()
print(json.dumps(health.to_json_dict()))
"""


@pytest.mark.parametrize("probe", ["timerfd", "timer"])
def test_blocked_loop_delays_receiving(python, probe):
    """The loop is blocked three times for 200 ms. A noisy computer can only make the delays longer."""
    found = Health.from_json_dict(json.loads(python(PROGRAM.replace("sys.argv[1]", repr(probe)))))
    assert found.receiving.longest > 0.1
    assert found.receiving_by_message.percentile(95) > 50  # almost all was recorded at the ends of these pauses
    assert found.cpu > 0
    assert max(found.series["receiving_max_ms"]) == pytest.approx(found.receiving.longest * 1e3, abs=0.01)
    assert found.seconds > 1


def test_pause_of_the_whole_process_meets_as_many_probes_as_its_length(python):
    """A stopped process reads no probe. Their times count nevertheless, or else long pauses would seem rare."""
    program = """
import json, os, signal, subprocess, sys, time
import gevent
from imsim.load import sampler

found = sampler.Sampler()
found.begin(time.perf_counter())
gevent.sleep(0.1)
code = "import os, signal, sys, time; pid = int(sys.argv[1]); time.sleep(0.1); os.kill(pid, signal.SIGCONT)"
code = code.replace("time.sleep(0.1)", "os.kill(pid, signal.SIGSTOP); time.sleep(1)")
helper = subprocess.Popen([sys.executable, "-c", code, str(os.getpid())])
while helper.poll() is None:
    gevent.sleep(0.01)
health = found.report()
found.stop()
print(json.dumps(health.to_json_dict()))
"""
    found = Health.from_json_dict(json.loads(python(program)))
    late = sum(weight for number, weight in found.receiving.counts.items() if 1e-5 * 1.05**number > 0.1)
    assert found.receiving.longest > 0.9
    assert late > 10  # about 45; one if a probe began only after the one before
