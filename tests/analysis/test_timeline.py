from __future__ import annotations

import numpy as np
import pytest

from imsim.analysis.timeline import TimeAxis, windows

MS, S = 1_000_000, 1_000_000_000


@pytest.fixture
def steady(build):
    """Four messages a second for ten seconds, shown after 10 ms; those of the fifth second arrive at its end."""

    def build_it(**scenario):
        times = [number * S // 4 for number in range(40)]
        rows = [
            {"intent": intent, "delivered_at": (5 * S if at // S == 4 else at) + 10 * MS}
            for intent, at in enumerate(times)
        ]
        return build([{"intended_at": at} for at in times], rows, **({"duration": 10.0} | scenario))

    return build_it


def test_windows_count_latencies_at_start_of_wait(steady):
    found = windows(steady(), 10.0)
    assert found["since"].tolist()[:10] == list(range(10))
    assert found["max"].round(6).tolist()[:10] == [10, 10, 10, 10, 1010, 10, 10, 10, 10, 10]
    assert found["p50"][4] == 635


def test_windows_have_offered_and_delivered_rates(steady):
    found = windows(steady(), 10.0)
    assert (found["until"] - found["since"]).tolist()[:10] == [1] * 10
    assert found["offered"].tolist()[:10] == [4] * 10
    assert found["delivered"].tolist()[:10] == [4, 4, 4, 4, 0, 8, 4, 4, 4, 4]


def test_group_message_is_delivered_in_parts(build):
    messages = [{"scene": "group", "intended_at": 0}]
    rows = [
        {"delivered_at": MS},
        {"recipient": "cyd", "delivered_at": 5 * S},
        {"recipient": "dan"},
        {"recipient": "eve"},
    ]
    found = windows(build(messages, rows, duration=10.0), 10.0)
    assert found["delivered"][found["delivered"] > 0].tolist() == [0.25, 0.25]
    assert found["max"][0] == np.inf
    assert found["max"][1:].isna().all()


def test_time_axis_ends_with_last_arrival_and_names_faults(steady):
    faults = [
        {"kind": "storage_stall", "at": 4.5, "duration": 1.0},
        {"kind": "mass_reconnect", "at": 4.0},
        {"kind": "node_crash", "at": 9.5, "target": "gateway0"},
    ]
    found = TimeAxis.of(steady(faults=faults, warmup=1.0, duration=9.8))
    assert (found.duration, found.end) == (9.8, 9.8)
    assert found.special == (
        (0.0, 1.0, "warm-up"),
        (4.0, 4.0, "mass reconnect"),
        (4.5, 5.5, "storage stall"),
        (9.5, 14.5, "node crash gateway0"),
    )
    assert TimeAxis.of(steady(duration=9.755)).end == 9.76
    assert [one.at for one in found.recoveries] == [4.0, 4.5, 9.5]


def test_time_axis_of_live_run_has_no_scenario_faults(steady):
    fault = {"kind": "mass_reconnect", "at": 4.0}
    assert TimeAxis.of(steady(faults=[fault], world="live")).special == ()
