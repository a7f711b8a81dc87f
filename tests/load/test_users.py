"""Tests of custom users: tasks with `self.im`, in a real Locust process against the real server."""

from __future__ import annotations

import pytest
from load.conftest import COMPLETE

import imsim

LOCUSTFILE = """
import gevent
from locust import User, between, constant, task

from imsim import Scenario
from imsim.load.users import IMUser

TINY = Scenario.from_toml('''{tiny}''', name="tiny").replace({{"population.devices": 1, "duration": 3}})


class Shopper(IMUser):
    scenario = TINY
    plays_plan = {plays_plan}
    wait_time = between(0.02, 0.1)
    fixed_count = 3

    def on_start(self):
        assert self.im.device == "d0"

    @task
    def ask_a_friend(self):
        sent = self.im.send_text(self.im.friend(), "is it there in blue?")
        assert sent.wait_stored(5) and sent.stored, sent
        assert sent.wait_delivered(5) and sent.delivered and sent.error is None, sent

    @task
    def open_a_group(self):
        group = self.im.open_group([self.im.friend(), self.im.pair()])
        assert self.im.send_text(group, "welcome").wait_delivered(5)


class Answering(IMUser):
    scenario = TINY
    plays_plan = {plays_plan}

    @task
    def answer(self):
        question = self.im.expect(text="in blue", timeout=0.5)
        if question is not None:
            assert question.conversation == question.sender
            self.im.read(question)
            self.im.send_text(question.sender, "yes")


class Roaming(IMUser):
    scenario = TINY
    plays_plan = {plays_plan}
    wait_time = constant(0.5)
    fixed_count = 1

    @task
    def roam(self):
        self.im.go_offline()
        gevent.sleep(0.1)
        assert self.im.come_online(5)


class Plain(User):
    wait_time = constant(0.1)
    fixed_count = 2

    @task
    def count(self):
        pass
"""


@pytest.fixture
def play(locust, url, tiny_file, tmp_path):
    """A function that runs the locustfile with 14 users, and returns the run."""

    def run(plays_plan: bool, *options: str):
        file = tmp_path / "shop.py"
        file.write_text(LOCUSTFILE.format(tiny=tiny_file.read_text(), plays_plan=plays_plan))
        arguments = ["-f", str(file), "-H", url, "--headless", "-u", "14", "--only-summary"]
        result = locust(*arguments, *options, "--imsim-out", str(tmp_path / "results"))
        assert result.returncode in COMPLETE, result.stderr
        assert "Traceback" not in result.stderr
        assert "tasks run for 3 s (-t, or the duration of the scenario)" in result.stderr
        assert "tasks end, because 3 s have passed" in result.stderr
        [path] = (tmp_path / "results").iterdir()
        return imsim.read_run(path)

    return run


def test_every_message_of_a_task_is_a_row(play):
    run = play(plays_plan=False)
    messages, deliveries = run.messages, run.deliveries
    assert run.manifest["extras"] == len(messages) > 20
    assert run.scenario.population.users == 12  # the other two of the 14 users are Plain
    assert set(messages.scene) == {"p2p", "group"}
    assert set(messages.outcome) == {"stored"}
    assert (messages.sent_at >= messages.intended_at).all()
    assert (messages.acked_at > messages.sent_at).all()
    assert set(deliveries.outcome) <= {"delivered", "absent"}  # a device may have been offline until the end
    assert (deliveries.outcome == "delivered").sum() > 20
    assert run.manifest["foreign"] == run.manifest["stray"] == 0
    assert any("closed model" in warning for warning in run.warnings)


def test_tasks_of_two_processes_talk_to_each_other(play, free_port):
    """A task waits for devices of the other process: for their answers, and until they have received its message."""
    port = str(free_port)
    run = play(False, "--processes", "2", "--master-bind-port", port, "--master-port", port)
    assert run.manifest["extras"] == len(run.messages) > 20
    assert set(run.messages.scene) == {"p2p", "group"}
    assert set(run.messages.outcome) == {"stored"}
    assert set(run.deliveries.outcome) <= {"delivered", "absent"}
    assert run.manifest["foreign"] == run.manifest["stray"] == 0
    assert [worker["devices"] > 3 for worker in run.manifest["workers"]] == [True, True]


def test_tasks_run_next_to_the_plan(play):
    run = play(plays_plan=True)
    planned = imsim.simulate(run.scenario).messages
    assert run.messages.intended_at[: len(planned)].tolist() == planned.intended_at.tolist()
    assert len(run.messages) == len(planned) + run.manifest["extras"] > len(planned) + 20
    assert set(run.messages.outcome) <= {"stored", "unsent"}  # the device that roams does not send while it is away


def test_users_of_one_run_must_share_a_scenario(locust, url, tmp_path):
    file = tmp_path / "two.py"
    file.write_text(
        "from imsim.load.users import IMUser\n"
        "class One(IMUser):\n    scenario = 'office'\n"
        "class Two(IMUser):\n    scenario = 'mobile'\n"
    )
    result = locust("-f", str(file), "-H", url, "--headless")
    assert result.returncode == 1
    assert "user classes: must have the same scenario, because they share one run (got One: office, Two: mobile)" in (
        result.stderr
    )


SHAPE = """
from locust import LoadTestShape
from imsim.load.director import Director
from imsim.load.users import IMUser

class Device(IMUser):
    pass

class Shape(LoadTestShape):
    use_common_options = True

    def tick(self):
        return (18 if Director.of(self.runner.environment).elapsed > 0.5 else 12), 100
"""


@pytest.mark.parametrize("processes", [(), ("--processes", "2")])
def test_users_beyond_the_population_take_part(processes, locust, url, tiny, free_port, tmp_path):
    (tmp_path / "shape.py").write_text(SHAPE)
    scenario = tiny.replace({"population.devices": 1, "duration": 5})
    (tmp_path / "scenario.toml").write_text(scenario.to_toml())
    arguments = ["-f", str(tmp_path / "shape.py"), "-H", url, "--headless", "--only-summary", "-u", "12"]
    arguments += ["--imsim-scenario", str(tmp_path / "scenario.toml"), "--imsim-out", str(tmp_path / "results")]
    if processes:
        arguments += [*processes, "--master-bind-port", str(free_port), "--master-port", str(free_port)]
    result = locust(*arguments)
    assert result.returncode in COMPLETE, result.stderr
    [path] = (tmp_path / "results").iterdir()
    run = imsim.read_run(path)
    planned = imsim.simulate(scenario).messages
    added = run.messages[len(planned) :]
    assert run.messages.intended_at[: len(planned)].tolist() == planned.intended_at.tolist()
    assert set(added.sender) <= {f"u{number}" for number in range(12, 18)}
    assert len(added) == run.manifest["extras"] > 10
    assert set(added.outcome) == {"stored"}
    larger = imsim.simulate(scenario.replace({"population.users": 18})).messages
    times = set(zip(larger.sender, larger.intended_at, strict=True))
    assert set(zip(added.sender, added.intended_at, strict=True)) <= times
    assert set(run.deliveries.outcome) == {"delivered"}
    assert [warning for warning in run.warnings if warning.startswith("6 users were added during the test")]
    assert not [warning for warning in run.warnings if "closed model" in warning]


ANSWERS = """
from locust import LoadTestShape, constant, task
from imsim import ImsimError, Scenario
from imsim.load.director import Director
from imsim.load.users import IMUser

class Chatter(IMUser):
    scenario = Scenario.from_toml('''{tiny}''').replace({{"population.devices": 1, "duration": 4}})
    wait_time = constant(0.2)

    def __init__(self, environment):
        super().__init__(environment)
        try:
            self.im.user
        except ImsimError as error:
            print(error)

    @task
    def chat(self):
        if int(self.im.user[1:]) >= 12:
            self.im.send_text(self.im.friend(), "from outside")
        if message := self.im.expect(text="from outside", timeout=0.3):
            answer = self.im.send_text(message.sender, "answer")
            assert answer.wait_delivered(5)

class Shape(LoadTestShape):
    def tick(self):
        return (18 if Director.of(self.runner.environment).elapsed > 0.5 else 12), 100
"""


def test_tasks_can_answer_users_beyond_the_population(locust, url, tiny_file, tmp_path):
    (tmp_path / "answers.py").write_text(ANSWERS.format(tiny=tiny_file.read_text()))
    arguments = ["-f", str(tmp_path / "answers.py"), "-H", url, "--headless", "--only-summary"]
    result = locust(*arguments, "--imsim-out", str(tmp_path / "results"))
    assert result.returncode in COMPLETE, result.stderr
    assert "Traceback" not in result.stderr
    assert "self.im: the device is not online in __init__; use self.im in on_start and in tasks" in result.stdout
    [path] = (tmp_path / "results").iterdir()
    run = imsim.read_run(path)
    added = {f"u{number}" for number in range(12, 18)}
    assert added & set(run.deliveries.recipient)
    assert set(run.deliveries.outcome) <= {"delivered", "absent"}
