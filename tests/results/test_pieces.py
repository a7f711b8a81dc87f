"""Tests of facts in pieces."""

from __future__ import annotations

import numpy as np
import pytest

from imsim.core.exceptions import UsageError
from imsim.results import Kind, Recorder, SpooledFacts, read_facts
from imsim.results.pieces import Partition, pieces_of


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Pieces of three facts."""
    monkeypatch.setattr("imsim.results.pieces._PIECE", 3)


@pytest.fixture
def spool(tmp_path):
    """A spool of seven facts: of the intents 0 to 6, and at as many seconds."""
    path = tmp_path / "spool"
    with Recorder(path) as recorder:
        for intent in range(7):
            recorder.sent(intent, float(intent))
    return path


def test_spools_are_read_in_pieces(spool):
    facts = SpooledFacts([(spool, 0)])
    assert [piece["intent"].tolist() for piece in facts] == [[0, 1, 2], [3, 4, 5], [6]]
    assert np.array_equal(np.concatenate(facts[:]), read_facts([spool]))


def test_times_of_a_spool_are_shifted(spool):
    facts = SpooledFacts([(spool, 0), (spool, -50)])
    assert (np.concatenate(facts[3:])["at"] - np.concatenate(facts[:3])["at"]).tolist() == [-50] * 7


def test_facts_are_translated(spool):
    def odd(facts):
        facts["intent"] += 10
        return facts[facts["intent"] % 2 == 1]

    assert np.concatenate(SpooledFacts([(spool, 0)], odd)[:])["intent"].tolist() == [11, 13, 15]


def test_truncated_last_fact_is_ignored(spool):
    spool.write_bytes(spool.read_bytes()[:-1])
    assert [len(piece) for piece in SpooledFacts([(spool, 0)])] == [3, 3]


def test_missing_spool_raises_usage_error(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the spool .*gone"):
        SpooledFacts([(tmp_path / "gone", 0)])


def test_facts_in_memory_are_cut_without_copies(spool):
    facts = read_facts([spool])
    pieces = pieces_of(facts)
    assert [len(piece) for piece in pieces] == [3, 3, 1]
    assert all(np.shares_memory(piece, facts) for piece in pieces)
    assert len(pieces_of(facts[:0])) == 1


def test_partition_gives_the_facts_of_each_range(spool):
    recorder = Recorder()
    for intent in (5, 0, 3, 4, 9, 0, 2, 7):
        recorder.acked(intent, 1.0)
    recorder.entered(3, 1.0)
    facts = recorder.facts()
    partition = Partition(pieces_of(facts), [0, 2, 4], 8)
    assert [sorted(partition.of(number)["intent"].tolist()) for number in range(3)] == [[0, 0], [0, 1], [0, 1, 3]]
    assert partition.unknown["intent"].tolist() == [9]
    assert partition.of_devices["kind"].tolist() == [Kind.ENTERED]
    assert facts["intent"].tolist() == [5, 0, 3, 4, 9, 0, 2, 7, -1], "the given facts stay unchanged"
