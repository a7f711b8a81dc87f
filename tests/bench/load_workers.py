"""The work of two Locust workers, as a multiple of the work of one process.

Wall times of busy cores depend on the rest of the computer. So the work is counted in CPU time: two cores do twice what
one does, unless the workers and the master spend more CPU time on each message.
"""

from __future__ import annotations

from imsim.load.launch import loadtest
from imsim.scenario import Scenario


def cpu_of(url: str, key: str, rate: float, seconds: float, processes: int) -> float:
    """Return the CPU seconds that a message costs, in all players and the coordinator together."""
    users = 100 * processes
    changes = {
        "population.users": users,
        "population.devices": 1,
        "conversations.p2p_share": 1.0,
        "conversations.room_share": 0.0,
        "workload.rate": rate / 100,
        "duration": seconds,
        "warmup": 0.0,
    }
    scenario = Scenario.load("office", changes)
    run = loadtest(scenario, url, key=key, processes=processes)
    assert (run.deliveries.outcome == "delivered").all()
    seconds = max(seconds, float(run.deliveries["delivered_at"].max()) / 1e9)
    return float(run.manifest["locust_cpu"]) * seconds / len(run.messages)


def work_of_two(url: str, key: str, rate: float, seconds: float) -> float:
    """Return how much more work two workers on two cores do than one process on one core.

    rate: messages per second of each process. Below it, most of the CPU time is the sender's wait for the exact moment.
    """
    return 2 * cpu_of(url, key, rate, seconds, 1) / cpu_of(url, key, rate, seconds, 2)
