import os
import subprocess
import sys

import numpy as np
import pytest

from imsim.core.exceptions import RunError, UsageError
from imsim.core.model import Code, Route
from imsim.results import Kind, Recorder, read_facts
from imsim.results.recorder import CODES, ROUTES


def record_everything(recorder: Recorder) -> list[tuple[int, ...]]:
    recorder.sent(1, 0.5)
    recorder.stored(1, 1.0)
    recorder.acked(1, 1.5)
    recorder.failed(2, 2.0, Code.TIMEOUT)
    recorder.pushed(1, 7, 2.5)
    recorder.delivered(1, 7, 3.0, Route.SYNC)
    recorder.duplicate(1, 7, 3.5)
    recorder.read(1, 7, 1e-9)
    recorder.shed(1, 8, 4.0)
    return [
        (Kind.SENT, 1, -1, 500_000_000, 0),
        (Kind.STORED, 1, -1, 1_000_000_000, 0),
        (Kind.ACKED, 1, -1, 1_500_000_000, 0),
        (Kind.FAILED, 2, -1, 2_000_000_000, CODES.index(Code.TIMEOUT)),
        (Kind.PUSHED, 1, 7, 2_500_000_000, 0),
        (Kind.DELIVERED, 1, 7, 3_000_000_000, ROUTES.index(Route.SYNC)),
        (Kind.DUPLICATE, 1, 7, 3_500_000_000, 0),
        (Kind.READ, 1, 7, 1, 0),
        (Kind.SHED, 1, 8, 4_000_000_000, 0),
    ]


def test_each_method_records_one_fact():
    recorder = Recorder()
    expected = record_everything(recorder)
    assert recorder.facts().tolist() == expected


def test_facts_can_be_read_while_more_are_recorded():
    recorder = Recorder()
    recorder.sent(0, 0.0)
    before = recorder.facts()
    recorder.sent(1, 0.0)
    assert len(before) == 1
    assert len(recorder.facts()) == 2


def test_seconds_are_rounded_to_the_nearest_nanosecond():
    recorder = Recorder()
    recorder.sent(0, 0.3 - 0.1)  # 0.19999999999999998
    assert recorder.facts()["at"][0] == 200_000_000


def test_spool_has_the_same_facts(tmp_path):
    with Recorder(tmp_path / "one.facts") as recorder:
        expected = record_everything(recorder)
        assert recorder.facts().tolist() == expected
    assert recorder.facts().tolist() == expected
    assert read_facts([tmp_path / "one.facts"]).tolist() == expected


def test_spools_are_merged_one_after_the_other(tmp_path):
    paths = [tmp_path / "a", tmp_path / "b", tmp_path / "c"]
    for number, path in enumerate(paths):
        with Recorder(path) as recorder:
            for _ in range(number):
                recorder.sent(number, 0.0)
    assert read_facts(paths)["intent"].tolist() == [1, 2, 2]
    assert len(read_facts([])) == 0


@pytest.mark.parametrize("torn", [1, 8, 17])
def test_truncated_last_fact_is_ignored(tmp_path, torn):
    with Recorder(tmp_path / "torn") as recorder:
        recorder.sent(0, 0.0)
        recorder.sent(1, 0.0)
    os.truncate(tmp_path / "torn", 36 - torn)
    with Recorder(tmp_path / "whole") as recorder:
        recorder.sent(2, 0.0)
    assert read_facts([tmp_path / "torn", tmp_path / "whole"])["intent"].tolist() == [0, 2]


def test_killed_process_loses_at_most_its_last_second(tmp_path):
    code = (
        "import os, sys; from imsim.results import Recorder\n"
        "recorder = Recorder(sys.argv[1])\n"
        "for number in range(100): recorder.sent(number, number / 10)\n"
        "os._exit(9)"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "spool"], check=False)
    intents = read_facts([tmp_path / "spool"])["intent"]
    assert intents.tolist() == list(range(len(intents)))
    assert len(intents) > 80  # ten facts a second, written every second


def test_many_facts_of_one_moment_are_flushed_by_count(tmp_path):
    recorder = Recorder(tmp_path / "spool")
    for number in range(10_000):
        recorder.sent(number, 0.0)
    written = len(read_facts([tmp_path / "spool"]))
    recorder.close()
    assert 5_000 < written < 10_000
    assert np.array_equal(read_facts([tmp_path / "spool"])["intent"], np.arange(10_000))


def test_existing_spool_is_not_overwritten(tmp_path):
    Recorder(tmp_path / "spool").close()
    with pytest.raises(UsageError, match=r"cannot create the spool .*spool: File exists"):
        Recorder(tmp_path / "spool")


def test_spool_without_space_raises_and_continues_later(tmp_path, file_sizes):
    recorder = Recorder(tmp_path / "spool")
    for number in range(10):
        recorder.sent(number, 0.0)
    with file_sizes(100), pytest.raises(RunError, match=r"no space left at .*spool"):
        recorder.flush()
    recorder.close()
    assert read_facts([tmp_path / "spool"])["intent"].tolist() == list(range(10))


def test_close_without_space_closes_the_spool(tmp_path, file_sizes):
    recorder = Recorder(tmp_path / "spool")
    recorder.sent(0, 0.0)
    with file_sizes(1), pytest.raises(RunError, match="no space left"):
        recorder.close()
    recorder.close()  # does nothing, and leaves no open file


def test_error_names_a_missing_spool(tmp_path):
    with pytest.raises(UsageError, match=r"cannot read the spool .*gone: No such file"):
        read_facts([tmp_path / "gone"])
