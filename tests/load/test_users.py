"""Tests of custom users: tasks with `self.im`, in a real Locust process against the real server."""

from __future__ import annotations

import time

import pytest

import imsim

LOCUSTFILE = """
import gevent
from locust import User, between, constant, task

from imsim import Scenario
from imsim.load.users import IMUser

TINY = Scenario.from_toml('''{tiny}''', name="tiny").replace({{"population.devices": 1, "duration": 2}})


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
    """A function that runs the locustfile with 12 devices and 2 other users, and returns the run."""

    def run(plays_plan: bool, *options: str):
        file = tmp_path / "shop.py"
        file.write_text(LOCUSTFILE.format(tiny=tiny_file.read_text(), plays_plan=plays_plan))
        arguments = ["-f", str(file), "-H", url, "--headless", "--only-summary"]
        result = locust(*arguments, *options, "--imsim-out", str(tmp_path / "results"))
        assert result.returncode == 0, result.stderr
        assert "Traceback" not in result.stderr
        assert "tasks run for 2 s (-t, or the duration of the scenario)" in result.stderr
        assert "tasks end, because 2 s have passed" in result.stderr
        [path] = (tmp_path / "results").iterdir()
        run = imsim.read_run(path)
        assert run.scenario.population.users == 12  # by default, Plain users take the place of no device
        assert run.manifest["extras"] > 20
        assert run.manifest["foreign"] == run.manifest["stray"] == 0
        assert run.manifest["exceptions"] == []
        assert any("closed model" in warning for warning in run.warnings)
        return run

    return run


def test_tasks_of_two_processes_talk_to_each_other(play, free_port):
    """A task waits for devices of the other process: for their answers, and until they have received its message."""
    port = str(free_port)
    run = play(False, "--processes", "2", "--master-bind-port", port, "--master-port", port)
    messages, deliveries = run.messages, run.deliveries
    assert run.manifest["extras"] == len(messages)
    assert set(messages.scene) == {"p2p", "group"}
    assert set(messages.outcome) == {"stored"}
    assert (messages.sent_at >= messages.intended_at).all()
    assert (messages.acked_at > messages.sent_at).all()
    assert set(deliveries.outcome) <= {"delivered", "absent"}  # a device may have been offline until the end
    assert (deliveries.outcome == "delivered").sum() > 20
    assert [worker["devices"] > 3 for worker in run.manifest["workers"]] == [True, True]


def test_tasks_run_next_to_the_plan(play):
    run = play(plays_plan=True)
    planned = imsim.simulate(run.scenario).messages
    assert run.messages.intended_at[: len(planned)].tolist() == planned.intended_at.tolist()
    assert len(run.messages) == len(planned) + run.manifest["extras"]
    assert set(run.messages.scene[len(planned) :]) == {"p2p", "group"}
    assert set(run.messages.outcome) <= {"stored", "unsent"}  # the device that roams does not send while it is away


FAILING = """
import itertools
from locust import User, constant, task
from imsim import Scenario
from imsim.load.users import IMUser

made = itertools.count()

class Failing(IMUser):
    scenario = Scenario.load("office", {
        "population.users": 4, "conversations.groups": 0, "conversations.p2p_share": 1.0, "conversations.partners": 2,
        "warmup": 0, "duration": 1, "drain": 0.1,
    })
    plays_plan = False
    wait_time = constant(0.1)

    def __init__(self, environment):
        super().__init__(environment)
        if next(made) == 1:
            raise OSError("no card")

    def on_start(self):
        if self.im.user == "u2":
            raise RuntimeError("ill")

    @task
    def talk(self):
        if self.im.user == "u0":
            for other in ("u2", "u3"):  # one whose user ends in on_start, one without a user
                sent = self.im.send_text(other, "hello")
                print(other, sent.wait_delivered(30), sent.error)
            self.im.open_group(["u3"], name="my lunch group")  # the server refuses the name
        else:
            raise ValueError("sold out\\nfor today")

class Plain(User):
    wait_time = constant(0.1)
    fixed_count = 1

    @task
    def count(self):
        self.im
"""


def test_failures_of_users_are_counted_and_named_and_nobody_waits_for_them(locust, url, tmp_path):
    """They are exceptions in a constructor, in on_start, and in tasks, also of plain users."""
    (tmp_path / "failing.py").write_text(FAILING)
    arguments = ["-f", str(tmp_path / "failing.py"), "-H", url, "--headless", "--only-summary"]
    since = time.monotonic()
    result = locust(*arguments, "--imsim-out", str(tmp_path / "results"), judged=True)
    assert time.monotonic() - since < 15
    assert result.returncode == 1, result.stderr
    [path] = (tmp_path / "results").iterdir()
    run = imsim.read_run(path)
    assert run.scenario.population.users == 4
    found = {one["error"]: one for one in run.manifest["exceptions"]}
    assert set(found) == {"OSError", "RuntimeError", "ValueError", "AttributeError", "RunError"}
    refusal = "the server did not let a device into the group my lunch group: "
    assert found["RunError"]["message"].startswith(refusal)
    assert found["OSError"]["count"] == found["RuntimeError"]["count"] == 1
    assert found["ValueError"]["count"] > 3
    assert found["OSError"]["place"] == "failing.py:20, in __init__"
    assert found["ValueError"]["message"] == "sold out"
    [warning] = [text for text in run.warnings if "exceptions in tasks: " in text]
    assert "1 x OSError: no card (failing.py:20, in __init__)" in warning
    assert result.stderr.splitlines()[-1] == f"imsim: {warning}; the run is {path}"
    assert not run.partial
    assert "u2 False no Locust user runs u2/d0\nu3 False no Locust user runs u3/d0\n" in result.stdout


def test_test_without_any_user_fails_at_once(locust, url, tmp_path):
    lines = "class Broken(IMUser):\n    def __init__(self, environment):\n        raise OSError('no card')\n"
    (tmp_path / "broken.py").write_text(f"from imsim.load.users import IMUser\n{lines}")
    since = time.monotonic()
    result = locust("-f", str(tmp_path / "broken.py"), "-H", url, "--headless", "--only-summary")
    assert time.monotonic() - since < 15
    assert result.returncode == 1, result.stderr
    assert result.stderr.splitlines()[-1] == "imsim: Locust could not construct any user: OSError('no card')"


@pytest.mark.parametrize(("option", "value"), [("-u", "0"), ("-t", "0s")])
def test_option_that_must_be_positive(option, value, locust, url):
    result = locust("-f", "locustfiles/office.py", "-H", url, "--headless", option, value)
    assert result.returncode == 2, result.stderr
    assert result.stderr.splitlines()[-1] == f"imsim: {option}: must be more than 0 (got 0)"


def test_users_of_one_run_must_share_a_scenario(locust, url, tmp_path):
    file = tmp_path / "two.py"
    file.write_text(
        "from imsim.load.users import IMUser\n"
        "class One(IMUser):\n    scenario = 'office'\n"
        "class Two(IMUser):\n    scenario = 'mobile'\n"
    )
    result = locust("-f", str(file), "-H", url, "--headless")
    assert result.returncode == 2
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


def test_users_beyond_the_population_take_part(locust, url, tiny, free_port, tmp_path):
    (tmp_path / "shape.py").write_text(SHAPE)
    scenario = tiny.replace({"population.devices": 1, "duration": 4})
    (tmp_path / "scenario.toml").write_text(scenario.to_toml())
    arguments = ["-f", str(tmp_path / "shape.py"), "-H", url, "--headless", "--only-summary", "-u", "12"]
    arguments += ["--imsim-scenario", str(tmp_path / "scenario.toml"), "--imsim-out", str(tmp_path / "results")]
    arguments += ["--processes", "2", "--master-bind-port", str(free_port), "--master-port", str(free_port)]
    result = locust(*arguments)
    assert result.returncode == 0, result.stderr
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
    scenario = Scenario.from_toml('''{tiny}''').replace({{"population.devices": 1, "duration": 3}})
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
    assert result.returncode == 0, result.stderr
    assert "Traceback" not in result.stderr
    assert "self.im: the device is not online in __init__; use self.im in on_start and in tasks" in result.stdout
    [path] = (tmp_path / "results").iterdir()
    run = imsim.read_run(path)
    added = {f"u{number}" for number in range(12, 18)}
    assert added & set(run.deliveries.recipient)
    assert added & set(run.messages.sender)
    assert set(run.deliveries.outcome) <= {"delivered", "absent"}
