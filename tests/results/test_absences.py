"""Tests of `Absences` against the definitions, computed fact by fact."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from imsim.results import Kind, Recorder
from imsim.results.absences import Absences

DEVICES = 3
KINDS = (Kind.DISCONNECTED, Kind.ENTERED, Kind.WITHDRAWN, Kind.RETURNED)
#: Facts (kind, device, ns). No two have the same time.
FACTS = st.lists(
    st.tuples(st.sampled_from(KINDS), st.integers(0, DEVICES - 1), st.integers(0, 50)),
    max_size=15,
    unique_by=lambda fact: fact[2],
)


def absences(facts: list[tuple[Kind, int, int]]) -> Absences:
    found = np.zeros(len(facts), Recorder().facts().dtype)
    for number, (kind, device, at) in enumerate(facts):
        found[number] = (kind, -1, device, at, 0)
    return Absences(found, DEVICES)


def withdrawn_periods(facts, device: int) -> list[list[float]]:
    periods: list[list[float]] = []
    for kind, _, at in sorted((fact for fact in facts if fact[1] == device), key=lambda fact: fact[2]):
        is_away = bool(periods) and periods[-1][1] == np.inf
        if kind is Kind.WITHDRAWN and not is_away:
            periods.append([at, np.inf])
        elif kind is Kind.RETURNED and is_away:
            periods[-1][1] = at
    return periods


@given(FACTS, st.integers(0, 60))
def test_withdrawn_devices_follow_their_definition(facts, at):
    found = absences(facts)
    devices, times = np.arange(DEVICES), np.full(DEVICES, at)
    expected = [withdrawn_periods(facts, device) for device in range(DEVICES)]
    assert found.has_withdrawn == any(expected)
    assert found.was_withdrawn(devices).tolist() == [bool(periods) for periods in expected]
    assert found.is_withdrawn_at_end(devices).tolist() == [bool(p) and p[-1][1] == np.inf for p in expected]
    assert found.is_withdrawn_after(devices, times).tolist() == [any(end > at for _, end in p) for p in expected]
    table = found.table(["ann", "bob", "cyd"], ["d0"])
    rows = [] if table is None else [tuple(row.values()) for row in table.to_pylist()]
    assert rows == [
        (name, "d0", since, None if until == np.inf else until)
        for name, periods in zip(["ann", "bob", "cyd"], expected, strict=True)
        for since, until in periods
    ]


@given(FACTS, st.integers(0, 60), st.integers(0, 10))
def test_devices_that_were_cut_off_follow_the_definition(facts, accepted, patience):
    def was_cut_off(device: int) -> bool:
        mine = [(kind, at) for kind, number, at in facts if number == device]
        losses = [at for kind, at in mine if kind in (Kind.DISCONNECTED, Kind.WITHDRAWN) and at <= accepted + patience]
        returns = [at for kind, at in mine if kind in (Kind.ENTERED, Kind.RETURNED)]
        return bool(losses) and not any(max(losses) < at < accepted - patience for at in returns)

    devices = np.arange(DEVICES)
    found = absences(facts).was_cut_off(devices, np.full(DEVICES, accepted), patience)
    assert found.tolist() == [was_cut_off(device) for device in range(DEVICES)]
