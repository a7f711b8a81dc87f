"""Devices that are idle for the whole run."""

from __future__ import annotations

import numpy as np

from imsim.core.model import Scene
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment
from imsim.sim.idle import busy_users

QUIET = Scenario().replace({"population.users": 1000, "workload.rate": 0.001, "duration": "30s"})


def test_users_without_part_in_plan_have_no_client():
    planned = plan(QUIET)
    experiment = Experiment(QUIET, planned)
    experiment.run(QUIET.duration)
    involved = {user for c in planned.conversations for user in c.members}
    assert set(experiment.clients) == involved
    assert 0 < len(involved) < 100


def test_members_of_used_groups_and_rooms_and_users_of_actions_are_busy():
    scenario = QUIET.replace(
        {
            "conversations": {
                "p2p_share": 0.0, "partners": 1, "groups": 50, "group_size": 5,
                "room_share": 0.1, "rooms": 3, "room_size": 4,
                "friend_requests": 0.0005, "churn": 0.001,
            }
        }
    )  # fmt: skip
    planned = plan(scenario)
    is_busy = busy_users(scenario, planned)
    used = set(planned.conversation.tolist()) | {a.conversation for a in planned.actions}
    for number, conversation in enumerate(planned.conversations):
        if number in used or conversation.scene is Scene.CHATROOM:
            assert is_busy[list(conversation.members)].all()
    for action in planned.actions:
        assert is_busy[action.user]
        assert action.other < 0 or is_busy[action.other]
    assert not is_busy.all()


def test_presence_of_friends_makes_all_users_busy():
    scenario = QUIET.replace({"policies.presence": "friends"})
    assert busy_users(scenario, plan(scenario)).all()


def test_heartbeats_of_idle_devices_keep_gateway_busy():
    """Each gateway handles about 5,000 pings and 5,000 pongs in 100 seconds, and each takes 1 ms."""
    scenario = QUIET.replace(
        {
            "duration": "100s", "drain": 0, "topology.gateways": 2, "policies.heartbeat": 10, "workload.rate": 1e-5,
            "topology.gateway.service": {"ping": "1ms", "pong": "1ms"},
        }
    )  # fmt: skip
    experiment = Experiment(scenario, plan(scenario))
    experiment.run(scenario.duration)
    for gateway in experiment.cluster.gateways:
        assert np.isclose(gateway.work.station.busy, 0.001 * 10_000, rtol=0.02)
