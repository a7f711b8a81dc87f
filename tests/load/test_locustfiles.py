"""Tests of Locust started by hand: `locust -f locustfiles/office.py` with Locust's own options and web page."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from load.servers import mosquitto, prosody

from imsim.results import RunData
from imsim.scenario import Scenario, plan

ROOT = Path(__file__).parents[2]


def test_office_runs_headless_with_the_command_of_its_page(url, tmp_path, environment):
    """-u sets the count of devices. -t sets how long messages are sent; the run is that of a shorter plan."""
    line = re.findall(r"^locust .*office.py.*", (ROOT / "docs" / "load-testing.md").read_text(), re.MULTILINE)[0]
    command = shlex.split(line.replace("ws://127.0.0.1:8765", url), comments=True)
    command += ["--headless", "-u", "6", "--imsim-seed", "5", "--imsim-out", str(tmp_path)]
    for seconds in (3, 12, 48):  # on a busy machine the logins take a larger part of the time
        timed = [sys.executable, "-m", *command, "-t", f"{seconds}s"]
        result = subprocess.run(timed, **environment, capture_output=True, text=True, timeout=120)
        if "send -> delivered" in result.stderr:
            break
    assert result.returncode == 0, result.stderr
    run = RunData.open(result.stdout.removeprefix("run: ").partition("\n")[0], verify=True)
    assert run.path.parent == tmp_path
    assert (run.world, run.seed, run.scenario.population.users) == ("live", 5, 6)
    assert run.scenario.duration == seconds
    office = Scenario.load("office", {"population.users": 6}, seed=5)
    assert run.messages["intended_at"].tolist() == plan(office, duration=run.scenario.duration).at.tolist()
    assert (run.messages.outcome == "stored").all()
    assert (run.deliveries.outcome == "delivered").all()
    assert len(run.messages) > 0


def test_option_scenario_sets_the_count_of_devices(locust, url, tiny_file, tmp_path):
    result = locust(
        *("-f", "locustfiles/hot_group.py", "-H", url, "--headless", "--only-summary"),
        *("--imsim-scenario", str(tiny_file), "--imsim-run", "mine", "--imsim-out", str(tmp_path)),
    )
    assert result.returncode == 0, result.stderr
    (folder,) = tmp_path.iterdir()
    run = RunData.open(folder)
    assert (run.scenario.population.users, run.scenario.population.devices) == (12, 2)
    assert run.scenario.duration == 1.0
    assert run.manifest["namespace"] == "mine"


#: Locustfiles, with the length of their runs in seconds and the count of their users.
FILES = [
    ("hot_group", 3, 60),
    ("mobile", 3, 20),
    ("chatroom", 3, 60),
    ("storm", 4, 60),
    ("soak", 3, 60),
    ("custom", 3, 12),
]


#: A script that runs Locust once for each list of arguments, all at the same time, because they mostly wait. It prints
#: the exit codes.
TOGETHER = """
import json, os, signal, sys
children = []
for arguments in json.loads(sys.argv[1]):
    children.append(os.fork())
    if not children[-1]:
        signal.alarm(80)
        sys.argv = ["locust", *arguments]
        import locust.main
        locust.main.main()
        sys.exit()
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


def test_custom_is_the_example_of_the_page():
    code = (ROOT / "locustfiles" / "custom.py").read_text().partition('"""\n\n')[2]
    assert f"```python\n{code}```" in (ROOT / "docs" / "custom-users.md").read_text()


def test_locustfiles_name_the_commands_that_start_them():
    for file, _, _ in FILES:
        text = (ROOT / "locustfiles" / f"{file}.py").read_text()
        assert re.search(rf"    imsim serve \S+ --port 8765\n    locust -f locustfiles/{file}.py ", text), file


def arguments_for(file: str, url: str, seconds: int, folder: Path, *options: str) -> list[str]:
    arguments = ["-f", f"locustfiles/{file}.py", "-H", url, "--headless", "--only-summary", "-t", f"{seconds}s"]
    return [*arguments, *options, "--imsim-out", str(folder / file)]


def runs_of(forked, folder: Path, *arguments: list[str]) -> dict[str, RunData]:
    """Run Locust with these arguments, and return the run of each file."""
    result = forked(TOGETHER, "-c", json.dumps(arguments))
    assert result.returncode == 0, result.stderr
    assert set(json.loads(result.stdout.splitlines()[-1])) <= {0, 5}, result.stderr
    assert "Traceback" not in result.stderr
    runs = {out.name: RunData.open(path) for out in folder.iterdir() for path in out.glob("*-live-*")}
    for file, run in runs.items():
        assert len(run.messages) > 0, file
        assert set(run.deliveries.outcome) <= {"delivered", "absent"}, file
        assert (run.deliveries.outcome == "delivered").any(), file
    return runs


def test_locustfiles_make_runs(forked, url, tmp_path):
    runs = runs_of(
        forked,
        tmp_path,
        *(arguments_for(file, url, seconds, tmp_path, "-u", str(users)) for file, seconds, users in FILES),
    )
    for file, seconds, _ in FILES:
        assert runs[file].scenario.duration == seconds, file
        if file in ("storm", "soak"):  # the shapes take devices away
            assert runs[file].manifest["withdrawn"]["devices"] > 0, file
            assert set(runs[file].messages.outcome) <= {"stored", "unsent"}, file


def test_locustfiles_load_other_servers(forked, tmp_path):
    """The tasks of custom.py run on a broker as on imsim's own server."""
    out = tmp_path / "out"
    out.mkdir()
    with prosody() as xmpp, mosquitto(tmp_path) as broker:
        url = f"ws://127.0.0.1:{broker.port}"
        runs = runs_of(
            forked,
            out,
            arguments_for("mqtt", url, 3, out),
            arguments_for("custom", url, 3, out, "--imsim-adapter", "mqtt", "-u", "12"),
            arguments_for("xmpp", f"ws://127.0.0.1:{xmpp.port}/xmpp-websocket", 3, out),
        )
    adapters = {file: run.manifest["adapter"] for file, run in runs.items()}
    assert adapters == {"mqtt": "mqtt", "custom": "mqtt", "xmpp": "xmpp"}


@pytest.mark.parametrize(
    ("options", "exit_code", "reason"),
    [
        (["-H", "ws://127.0.0.1:1"], 1, "no server at ws://127.0.0.1:1; start one with `imsim serve`"),
        (["-H", "127.0.0.1"], 2, "url: must be ws://host:port or wss://host:port (got '127.0.0.1')"),
        (["-H", "URL", "--imsim-run", "a:b"], 2, "--imsim-run: "),
        (["-H", "URL", "-u", "3"], 2, "-u: scenario office: conversations.partners: "),
        (["-H", "URL", "--imsim-key", "wrong"], 1, "refused the key"),
    ],
)
def test_invalid_option_gives_one_line(locust, url, options, exit_code, reason):
    options = [url if option == "URL" else option for option in options]
    result = locust("-f", "locustfiles/office.py", "--headless", *options)
    assert result.returncode == exit_code
    assert reason in result.stderr
    assert "Traceback" not in result.stderr


def test_full_disk_for_temporary_files_ends_the_test_with_the_reason(forked, url, tiny_file, tmp_path):
    script = "import locust.main, resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000))\nlocust.main.main()"
    arguments = ["-f", "locustfiles/office.py", "-H", url, "--headless", "--only-summary"]
    arguments += ["--imsim-scenario", str(tiny_file), "--imsim-out", str(tmp_path)]
    result = forked(script, "locust", *arguments)
    assert result.returncode == 1
    assert re.search(r"no space left at \S+/facts-0.spool: the file reached the limit of file sizes", result.stderr)
    assert list(tmp_path.iterdir()) == []


def test_unknown_scenario_ends_locust_before_the_start(locust, url):
    result = locust("-f", "locustfiles/office.py", "--headless", "-H", url, "--imsim-scenario", "ofice")
    assert result.returncode == 2
    assert "did you mean 'office'?" in result.stderr


def test_locust_refuses_two_locustfiles(locust, url):
    result = locust("-f", "locustfiles/office.py,locustfiles/hot_group.py", "--headless", "-H", url)
    assert result.returncode == 2
    assert "imsim: user classes: must have the same scenario, because they share one run (got Office" in result.stderr


def test_web_page_makes_a_run_of_each_test(url, tiny_file, free_port, tmp_path, environment):
    command = [sys.executable, "-m", "locust", "-f", "locustfiles/office.py", "-H", url, "--autostart"]
    command += ["--web-host", "127.0.0.1", "--web-port", str(free_port)]
    command += ["--imsim-scenario", str(tiny_file), "--imsim-out", str(tmp_path)]
    with subprocess.Popen(
        command,
        **environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as child:
        try:
            first = child.stdout.readline()
            page = f"http://127.0.0.1:{free_port}"
            form = {"user_count": 24, "spawn_rate": 100, "host": url, "imsim_seed": "9"}
            with urlopen(f"{page}/swarm", urlencode(form).encode(), timeout=10) as answer:
                assert b'"success":true' in answer.read().replace(b" ", b"")
            second = child.stdout.readline()
            with urlopen(f"{page}/stats/requests", timeout=10) as answer:
                assert b"send -> delivered" in answer.read()
        finally:
            child.terminate()
    runs = [RunData.open(line.removeprefix("run: ").strip()) for line in (first, second)]
    assert [run.seed for run in runs] == [7, 9]
    assert all((run.deliveries.outcome == "delivered").all() for run in runs)


BLOCKING = """
import gevent.monkey
from locust import constant, task
from imsim.load.users import IMUser

class Blocking(IMUser):
    scenario = "office"
    wait_time = constant(0.1)

    @task
    def block(self):
        gevent.monkey.get_original("time", "sleep")(0.2)  # blocks the whole process
"""


def test_run_that_the_generator_spoils_has_the_reason_everywhere_and_exit_code_5(locust, url, tmp_path):
    (tmp_path / "blocking.py").write_text(BLOCKING)
    arguments = ["-f", str(tmp_path / "blocking.py"), "-H", url, "--headless", "--only-summary", "-u", "6", "-t", "2s"]
    result = locust(
        *arguments, "--html", str(tmp_path / "page.html"), "--imsim-out", str(tmp_path / "out"), judged=True
    )
    [folder] = (tmp_path / "out").iterdir()
    run = RunData.open(folder)
    reason = f"INVALID: {run.manifest['invalid_because']}"
    assert result.returncode == 5, result.stderr
    assert result.stderr.splitlines()[-1] == f"imsim: {reason}; the run is {folder}"
    assert f"ERROR/imsim.load: {reason}" in result.stderr
    assert reason in (tmp_path / "page.html").read_text()


SAW = """
from imsim.load.shapes import LoadShape
from imsim.load.users import IMUser

class Office(IMUser):
    scenario = "office"

class Saw(LoadShape):
    def share(self, at):
        return at * 3 % 1
"""


def test_users_that_a_shape_adds_are_in_their_groups_and_keep_what_they_have(locust, url, tmp_path):
    """At the start there is one user, so most groups have no member online. Later all users come, go, and come back."""
    (tmp_path / "saw.py").write_text(SAW)
    arguments = ["-f", str(tmp_path / "saw.py"), "-H", url, "--headless", "--only-summary", "-u", "30", "-t", "4s"]
    result = locust(*arguments, "--imsim-out", str(tmp_path / "out"))
    assert result.returncode == 0, result.stderr
    [folder] = (tmp_path / "out").iterdir()
    run = RunData.open(folder)
    assert "group" in set(run.messages.scene[run.messages.outcome == "stored"])
    assert set(run.messages.outcome) == {"stored", "unsent"}
    assert set(run.deliveries.outcome) == {"delivered", "absent"}
    # A message that arrives in the moment of a logout may be fetched again. More would mean that devices forget.
    assert run.deliveries.duplicates.sum() < 5
    back = run.withdrawals[run.withdrawals.until.notna()]
    assert len(back)
    fetched = run.deliveries[run.deliveries.route == "sync"]
    assert len(fetched)
    # A latency counts from the start of a login, so it is never zero.
    assert not set(zip(fetched.recipient, fetched.delivered_at, strict=True)) & set(
        zip(back.user, back.until, strict=True)
    )
