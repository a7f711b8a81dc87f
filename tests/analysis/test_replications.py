import math

import pytest

import imsim
from imsim.analysis.replications import Replications, Sample
from imsim.scenario import Scenario


def make(*values, precision=None):
    samples = [
        Sample(r, 100 + r, f"digest {r}", {"delivery.p99": value, "lost": 0.0}) for r, value in enumerate(values)
    ]
    return Replications(Scenario(name="tiny"), samples, precision)


def test_summary_and_frame():
    replications = make(1.0, 2.0, 3.0)
    assert replications.summary().loc["delivery.p99"].round(3).tolist() == [2, 0, 4.484, 1.242, 1, 3, 0]
    assert list(replications.frame.columns) == ["replication", "seed", "digest", "delivery.p99", "lost"]
    assert replications.frame["delivery.p99"].tolist() == [1, 2, 3]
    assert replications["lost"].high == 0


def test_an_interval_of_what_is_never_negative_ends_at_0_and_is_no_narrower_for_that():
    samples = [Sample(r, r, "", {"ack.p50": value, "own": value}) for r, value in enumerate((1.0, 3.0))]
    found = Replications(Scenario(name="tiny"), samples)
    assert (found["ack.p50"].low, found["own"].low) == (0, pytest.approx(-10.706, abs=0.001))
    assert found["ack.p50"].half == found["own"].half == pytest.approx(12.706, abs=0.001)


def test_what_is_lost_in_one_replication_is_null_over_all_and_said():
    replications = make(1.0, math.inf, 3.0)
    row = replications.summary().loc["delivery.p99"]
    assert row[["mean", "low", "high", "largest"]].isna().all()
    assert (row["smallest"], row["null"]) == (1, 1)
    assert replications.frame["delivery.p99"].isna().tolist() == [False, True, False]
    assert "delivery.p99 in 1" in " ".join(replications.notes)
    told = replications.to_json_dict()
    assert told["metrics"]["delivery.p99"] == {"mean": None, "low": None, "high": None, "null": 1}


def test_few_replications_are_said_to_be_few():
    assert "two or more" in make(1.0).notes[0]
    assert "3 replications" in make(1.0, 2.0, 3.0).notes[0]
    assert make(*map(float, range(20))).notes == []


def test_a_precision_that_was_not_reached_is_said():
    values = list(map(float, range(20)))
    replications = make(*values, precision={"delivery.p99": 0.05})
    assert not replications.is_precise
    assert "delivery.p99 is not as precise" in replications.notes[0]
    assert make(*values, precision={"delivery.p99": 0.9}).is_precise
    assert make(*values).to_json_dict()["precise"] is None


def test_what_was_not_kept_is_said_to_be_so():
    with pytest.raises(imsim.UsageError, match="keep='runs'"):
        make(1.0).runs  # noqa: B018
    with pytest.raises(imsim.UsageError, match=r"'ack.p50'.*Measured: delivery.p99, lost"):
        make(1.0)["ack.p50"]


def test_texts():
    replications = make(1.0, math.inf)
    assert "note: null in some" in str(replications)
    assert "<b>tiny</b>" in replications._repr_html_()
    assert repr(replications) == "<Replications of tiny: 2 from seed 1>"
    assert str(make(1.0, 3.0)["delivery.p99"]) == "2 [0, 14.71]"


def test_no_steady_state_is_a_warning():
    with pytest.warns(UserWarning, match="make it longer"):
        assert make(1.0).suggest_warmup() is None
