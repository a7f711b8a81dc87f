"""Devices that do nothing all the time."""

from __future__ import annotations

import numpy as np

from imsim.core.model import Scene
from imsim.scenario import Scenario, plan
from imsim.sim import Experiment
from imsim.sim.idle import busy_users

QUIET = Scenario().replace({"population.users": 1000, "workload.rate": 0.001, "duration": "30s"})


def test_whom_the_plan_does_not_concern_is_not_made():
    planned = plan(QUIET)
    experiment = Experiment(QUIET, planned)
    experiment.run(QUIET.duration)
    concerned = {user for c in planned.conversations for user in c.members}
    assert set(experiment.clients) == concerned
    assert 0 < len(concerned) < 100


def test_members_of_used_groups_of_rooms_and_whom_actions_concern_are_busy():
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


def test_friends_who_hear_of_each_other_are_all_made():
    scenario = QUIET.replace({"policies.presence": "friends"})
    assert busy_users(scenario, plan(scenario)).all()


def test_idle_heartbeats_cost_their_gateway_what_those_of_real_devices_would():
    """Ten thousand pings in a hundred seconds, and pongs, of 1 ms each."""
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
