import pickle
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from imsim.core.exceptions import UsageError
from imsim.core.frames import GATEWAY_OPS
from imsim.core.internal_frames import ROUTER_OPS
from imsim.core.storage import STORAGE_OPS
from imsim.scenario import LIVE_IGNORES, Constant, Exponential, Lognormal, Pareto, Scenario, Uniform
from imsim.scenario.distributions import Named
from imsim.scenario.sections import Section

DURATION = "a duration such as '250us', '5ms', '2s', '1.5min' or '2h', or a number of seconds"
KINDS_TEXT = "a kind of constant, uniform, exponential, lognormal, pareto, empirical"

PRESETS = "capacity, chatroom, hot-group, mobile, night-sync, office, reconnect-storm, social"


def problem(*overrides: str) -> str:
    """Return the error of the preset office with these overrides, without the prefix of each line."""
    with pytest.raises(UsageError) as error:
        Scenario.load("office", overrides)
    lines = str(error.value).splitlines()
    assert all(line.startswith("scenario office: ") for line in lines)
    assert "pydantic" not in str(error.value)
    assert error.value.__cause__ is None
    assert error.value.__context__ is None or error.value.__suppress_context__
    return "\n".join(line.removeprefix("scenario office: ") for line in lines)


@pytest.mark.parametrize(
    ("override", "text"),
    [
        ("policies.ack=never", "policies.ack: expected 'after_store' or 'after_receive', got 'never'"),
        ("population.users=5.5", "population.users: expected a whole number, got 5.5"),
        ("population.users=5.0", "population.users: expected a whole number, got 5.0"),
        ("population.users=many", "population.users: expected a whole number, got 'many'"),
        ("population.users='500'", "population.users: expected a whole number, got '500'"),
        ("population.users=0", "population.users: expected at least 1, got 0"),
        ("population.users=1", "conversations.partners: expected fewer than population.users (1), got 5"),
        ("population.devices=9", "population.devices: expected at most 8, got 9"),
        ("population.devices=true", "population.devices: expected a whole number, got true"),
        ("workload.rate=true", "workload.rate: expected a number, got true"),
        ("workload.rate=nan", "workload.rate: expected a finite number, got nan"),
        ("workload.rate=0", "workload.rate: expected at least 1e-09, got 0"),
        ("workload.rate=inf", "workload.rate: expected a finite number, got inf"),
        ("network.client.loss=1", "network.client.loss: expected less than 1, got 1"),
        ("duration=0", "duration: expected more than 0, got 0"),
        ("duration=true", f"duration: expected {DURATION}, got true"),
        ("duration=soon", f"duration: expected {DURATION}, got 'soon'"),
        ("duration=2024-01-01", f"duration: expected {DURATION}, got datetime.date(2024, 1, 1)"),
        ("seed=-1", "seed: expected at least 0, got -1"),
        ("seed=", "seed: expected a whole number, got ''"),
        ("title=3", "title: expected a text, got 3"),
        ('title="one\\ntwo"', "title: expected one line, got several"),
        ("network=3", "network: expected a table, got 3"),
        ("policies=[1]", "policies: expected a table, got a list"),
        ("warmup=20s", "warmup: expected less than duration (10 s), got 20 s"),
        (
            "network.client.latency=5 parsecs",
            f"network.client.latency: expected {DURATION}, or a table such as {{ kind = 'exponential', mean = '5ms' }},"
            " got '5 parsecs'",
        ),
        ("network.client.latency.median=-1ms", f"network.client.latency.median: expected {DURATION}, got '-1ms'"),
        ("network.client.latency={kind='x'}", f"network.client.latency.kind: expected {KINDS_TEXT}, got 'x'"),
        ("network.client.latency={kind=1}", f"network.client.latency.kind: expected {KINDS_TEXT}, got '1'"),
        (
            "network.client.latency={mean=1}",
            f"network.client.latency: expected {KINDS_TEXT}, got a table without 'kind'",
        ),
        (
            "network.client.latency={kind='uniform',low=3,high=1}",
            "network.client.latency: expected low <= high, got low = 3 and high = 1",
        ),
        ("network.client.latency={kind='exponential'}", "network.client.latency.mean: missing"),
        (
            "network.client.latency={kind='exponential',mean=0}",
            "network.client.latency.mean: expected more than 0, got 0.0",
        ),
        (
            "network.client.latency={kind='exponential',mean=1,man=1}",
            "network.client.latency.man: unknown field (did you mean 'mean'?); known here: kind, mean",
        ),
        ("workload.size=5ms", "workload.size: expected plain numbers, 0 or more, got '5ms'"),
        ("workload.size.median=5ms", "workload.size: expected plain numbers, 0 or more, got '5ms'"),
        (
            "workload.size=-1",
            "workload.size: expected a number, 0 or more, or a table such as { kind = 'uniform', low = 3, high = 20 },"
            " got -1",
        ),
        ("workload.size=0", "workload.size: expected values of 1 or more, got at most 0"),
        ("workload.size=99999", "workload.size: expected at most limits.content_bytes (16384), got up to 99999"),
        ("limits.group_size=10", "conversations.group_size: expected at most limits.group_size (10), got up to 20"),
        ("population.users=5", "conversations.partners: expected fewer than population.users (5), got 5"),
        (
            "conversations.groups=0",
            "conversations.groups: expected at least 1, because p2p_share = 0.7 leaves messages for groups, got 0",
        ),
        (
            "conversations.partners=0",
            "conversations.partners: expected at least 1, because p2p_share = 0.7 sends to partners, got 0",
        ),
        (
            "conversations.room_share=0.4",
            "conversations.room_share: expected at most 1 together with p2p_share = 0.7, got 0.4",
        ),
        ("conversations.room_share=-0.1", "conversations.room_share: expected at least 0, got -0.1"),
        ("conversations.room_share=2", "conversations.room_share: expected at most 1, got 2"),
        (
            "conversations.room_share=0.3",
            "conversations.rooms: expected at least 1, because room_share = 0.3 sends to chatrooms, got 0",
        ),
        (
            "conversations={p2p_share=0.5,room_share=0.2,rooms=1}",
            "conversations.groups: expected at least 1, because p2p_share = 0.5 and room_share = 0.2 leave messages"
            " for groups, got 0",
        ),
        (
            "conversations={churn=1}",
            "conversations.groups: expected at least 1, because churn = 1 changes groups, got 0",
        ),
        ("conversations.rooms=-1", "conversations.rooms: expected at least 0, got -1"),
        ("conversations.rooms=2000000", "conversations.rooms: expected at most 1e+06, got 2000000"),
        (
            "conversations={rooms=1,room_size=0}",
            "conversations.room_size: expected values of 1 or more, got at most 0",
        ),
        ("conversations.churn=-1", "conversations.churn: expected at least 0, got -1"),
        ("conversations.churn=1e4", "conversations.churn: expected at most 1000, got 10000.0"),
        ("conversations.friend_requests=-1", "conversations.friend_requests: expected at least 0, got -1"),
        ("conversations.friend_requests=1e4", "conversations.friend_requests: expected at most 1000, got 10000.0"),
        ("workload.recalls=1.5", "workload.recalls: expected at most 1, got 1.5"),
        ("workload.recalls=-1", "workload.recalls: expected at least 0, got -1"),
        ("workload.edits=1.5", "workload.edits: expected at most 1, got 1.5"),
        (
            "workload={recalls=0.6,edits=0.5}",
            "workload.edits: expected at most 1 together with recalls = 0.6, got 0.5",
        ),
        ("workload.amended_after=-1s", f"workload.amended_after: expected {DURATION}, or a table"),
        (
            "workload.types.txt=1",
            "workload.types.txt: unknown type (did you mean 'text'?); known here: text, image, audio, video, file, geo,"
            " custom",
        ),
        ("workload.types.notification=1", "workload.types.notification: unknown type; known here: text,"),
        ("workload.types.image=-1", "workload.types.image: expected a share from 0 to 1e+09, got -1"),
        ("workload.types.image=1e10", "workload.types.image: expected a share from 0 to 1e+09, got 1e+10"),
        ("workload.types.image=inf", "workload.types.image: expected a finite number, got inf"),
        ("workload.types.image=true", "workload.types.image: expected a number, got true"),
        ("workload.types.text=0", "workload.types: expected at least one type with a share above 0"),
        ("workload.types={}", "workload.types: expected at least one type with a share above 0"),
        ("workload.types=text", "workload.types: expected a table, got 'text'"),
        ("policies.heartbeat=75s", "policies.heartbeat_timeout: expected more than heartbeat (75 s), got 75 s"),
        ("policies.reconnect_max=0.1", "policies.reconnect_max: expected at least reconnect_min (0.5 s), got 0.1 s"),
        ("topology.storages=0", "topology.storages: expected at least 1, got 0"),
        ("topology.router.workers=0", "topology.router.workers: expected at least 1, got 0"),
        ("topology.router.service=3", "topology.router.service: expected a table, got 3"),
        ("topology.router.service.send=x", f"topology.router.service.send: expected {DURATION}, or a table"),
        ("populaton.users=5", "populaton: unknown field (did you mean 'population'?); known here: title, seed,"),
        ("population.user=5", "population.user: unknown field (did you mean 'users'?); known here: users, devices"),
        ("population.colour=red", "population.colour: unknown field; known here: users, devices"),
        ("network.moon.latency=1.3s", "network.moon: unknown field; known here: client, clients,"),
        ("duration.x=1", "duration.x: unknown field; duration is not a table"),
        ("seed", "override 'seed': expected path=value, as in population.users=500"),
        ("=5", "override '=5': expected path=value, as in population.users=500"),
    ],
)
def test_error_names_field_expected_value_and_given_value(override: str, text: str) -> None:
    line = problem(override)
    assert line.startswith(text)
    assert "\n" not in line
    if text.count("known here") == 0 and not text.endswith("table"):
        assert line == text


@pytest.mark.parametrize(
    ("tier", "op", "ops"),
    [
        ("gateway", "push", GATEWAY_OPS),
        ("router", "deliver", ROUTER_OPS),
        ("storage", "append", STORAGE_OPS | {"commit"}),
    ],
)
def test_error_about_unknown_operation_lists_known_ones(tier: str, op: str, ops: frozenset[str]) -> None:
    assert problem(f"topology.{tier}.service.{op}s=1ms") == (
        f"topology.{tier}.service.{op}s: unknown operation (did you mean {op!r}?); known here: {', '.join(sorted(ops))}"
    )


def test_each_problem_has_its_own_line() -> None:
    assert problem("seed=-1", "policies.ack=never", "network.client.latency={kind='lognormal',p98=1}").splitlines() == [
        "seed: expected at least 0, got -1",
        "network.client.latency.median: missing",
        "network.client.latency.p99: missing",
        "network.client.latency.p98: unknown field (did you mean 'p99'?); known here: kind, median, p99, maximum",
        "policies.ack: expected 'after_store' or 'after_receive', got 'never'",
    ]


def test_python_arguments_are_checked_like_files() -> None:
    with pytest.raises(UsageError, match=r"^scenario custom: population\.users: expected at least 1, got 0$"):
        Scenario(population={"users": 0})
    with pytest.raises(UsageError, match=r"^scenario mine: colour: unknown field; known here: title, seed"):
        Scenario(name="mine", colour="red")
    with pytest.raises(UsageError, match=r"^scenario custom: name: expected a text that is not empty, got ''$"):
        Scenario(name="")


def test_network_can_have_the_name_of_a_distribution_kind() -> None:
    with pytest.raises(UsageError, match=r"network\.profiles\.constant\.latency: expected .*, got -1$"):
        Scenario().replace({"network.profiles": {"constant": {"latency": -1}}})


def _fields(model: type[BaseModel], path: str = ""):
    for name, field in model.model_fields.items():
        yield f"{path}{name}", name, field
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _fields(field.annotation, f"{path}{name}.")


def test_every_field_has_a_description() -> None:
    fields = [*_fields(Scenario), *(entry for kind in get_args(Named) for entry in _fields(kind))]
    assert len(fields) > 60
    assert [path for path, name, field in fields if name != "kind" and not field.description] == []


# --- loading ---------------------------------------------------------------------------------------------------------


def test_defaults_are_a_valid_scenario() -> None:
    scenario = Scenario()
    assert scenario.name == "custom"
    assert scenario.population.users == 100
    assert scenario.policies.token_lifetime == 86400
    assert scenario.topology.gateway.service == {}


def test_loaded_scenario_has_the_name_of_its_file(tmp_path: Path) -> None:
    (tmp_path / "rush-hour.toml").write_text("seed = 4\n[network.client]\nloss = 0.01\n[workload]\nsize = 30\n")
    for path in (tmp_path / "rush-hour.toml", str(tmp_path / "rush-hour.toml")):
        scenario = Scenario.load(path, {"population.users": 7}, seed=11)
        assert scenario.name == "rush-hour"
        assert (scenario.seed, scenario.population.users) == (11, 7)
        assert scenario.network.client.loss == 0.01
        assert scenario.network.client.latency == Lognormal(median=0.015, p99=0.06)  # the default
        assert scenario.workload.size == Constant(value=30)


def test_overrides_of_a_command_line_are_applied() -> None:
    scenario = Scenario.load(
        "office",
        [
            "workload.rate = 2",
            "policies.ack=after_receive",
            "policies.gap_wait=5ms",
            "title=Will it hold = yes?",
            "network.client.latency={kind='exponential', mean='5ms'}",
            "network.backend.latency.p99=2ms",
            "topology.router.service.send=1ms",
            "topology.storage.service={}",
        ],
        seed=3,
    )
    assert scenario.workload.rate == 2
    assert scenario.policies.ack == "after_receive"
    assert scenario.policies.gap_wait == 0.005
    assert scenario.title == "Will it hold = yes?"
    assert scenario.network.client.latency == Exponential(mean=0.005)
    assert scenario.network.backend.latency == Lognormal(median=0.0003, p99=0.002)
    assert scenario.topology.router.service["send"] == Constant(value=0.001)
    assert scenario.topology.router.service["deliver"] == Scenario.load("office").topology.router.service["deliver"]
    assert scenario.topology.storage.service == {}
    assert (scenario.name, scenario.seed) == ("office", 3)
    assert Scenario.load("office", "seed=5").seed == 5


def test_override_cannot_contain_a_second_line() -> None:
    assert problem("seed=1\nduration=3").startswith("seed: expected a whole number, got")


def test_message_types_recalls_and_rooms_are_read_and_written() -> None:
    scenario = Scenario.load(
        "office",
        [
            "workload.types={image = 2, text = 8}",
            "workload.types.geo=1",
            "workload.amended_after=300ms",
            "conversations.room_size={kind='uniform', low=3, high=9}",
            "conversations.room_share=0.3",
            "conversations.rooms=2",
        ],
    )
    assert list(scenario.workload.types.items()) == [("text", 8), ("image", 2), ("geo", 1)]
    assert scenario.workload.amended_after == Constant(value=0.3)
    assert scenario.conversations.room_size == Uniform(low=3, high=9)
    assert Scenario.from_toml(scenario.to_toml(), name="office") == scenario
    assert Scenario.load("office").workload.types == {"text": 1}


def test_chatroom_can_be_as_large_as_the_limit_or_the_population() -> None:
    rooms = {"conversations.rooms": 1, "conversations.room_share": 0.3, "conversations.room_size": 90}
    Scenario.load("office", {**rooms, "limits.room_size": 90})
    with pytest.raises(
        UsageError, match=r"conversations.room_size: expected at most limits.room_size \(89\), got up to 90"
    ):
        Scenario.load("office", {**rooms, "limits.room_size": 89})
    Scenario.load("office", {**rooms, "population.users": 80, "limits.room_size": 80})  # at most 80 of the 90 exist
    Scenario.load("office", {"limits.room_size": 1})  # there are no rooms


def test_replace_returns_a_changed_copy() -> None:
    office = Scenario.load("office")
    changed = office.replace(
        {
            "population.users": np.int64(6),
            "workload.rate": np.float64(0.5),
            "network.client.latency": Uniform(low=0, high=1),
            "policies": office.policies.model_copy(update={"send_attempts": 2}),
            "policies.push_backoff": 3,
        }
    )
    assert type(changed.population.users) is int
    assert changed.network.client.latency == Uniform(low=0, high=1)
    assert (changed.policies.send_attempts, changed.policies.push_backoff) == (2, 3)
    assert changed.name == "office"
    assert office == Scenario.load("office")
    assert office.replace({}) == office == office.replace({"seed": office.seed})


def test_scenario_and_its_sections_are_frozen() -> None:
    scenario = Scenario()
    for model, field in [(scenario, "seed"), (scenario.policies, "ack"), (scenario.network.client, "loss")]:
        with pytest.raises(ValidationError, match="frozen"):
            setattr(model, field, getattr(model, field))


def test_scenario_can_be_pickled() -> None:
    office = Scenario.load("office")
    office.network.client.latency.quantile(0.5)
    assert pickle.loads(pickle.dumps(office)) == office


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (
            "ofice",
            f"scenario ofice: no such preset or file (did you mean 'office'?); presets: {PRESETS}",
        ),
        (
            "office.tml",
            f"scenario office.tml: no such preset or file (did you mean 'office'?); presets: {PRESETS}",
        ),
        ("zzz", f"scenario zzz: no such preset or file; presets: {PRESETS}"),
        ("", "scenario .: a folder, not a TOML file"),
        ("a\0b", "scenario a\0b: cannot be read: embedded null byte"),
    ],
)
def test_error_about_unknown_scenario_suggests_presets(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError) as error:
        Scenario.load(name)
    assert str(error.value) == text


def test_error_about_unknown_preset_suggests_one() -> None:
    with pytest.raises(
        UsageError, match=r"^scenario hotgroup: no such preset \(did you mean 'hot-group'\?\); presets: "
    ):
        Scenario.preset_text("hotgroup")


def test_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "bom.toml").write_text("seed = 5", encoding="utf-8-sig")
    assert Scenario.load(tmp_path / "bom.toml").seed == 5


def test_files_that_are_not_scenarios_are_refused(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    (run / "manifest.json").touch()
    with pytest.raises(
        UsageError, match=r"run: a folder, not a TOML file; a run's folder is opened by imsim\.read_run$"
    ):
        Scenario.load(run)
    bad = tmp_path / "bad.toml"
    bad.write_text("seed = 1\n[policies\n")
    with pytest.raises(UsageError, match=r"^scenario bad: not valid TOML: .*\(at line 2, column 10\)$"):
        Scenario.load(bad)
    bad.write_bytes(b"title = '\xff'")
    with pytest.raises(UsageError, match=r"bad\.toml: not a TOML file: it is not UTF-8 text$"):
        Scenario.load(bad)
    bad.write_text("name = 'good'")
    with pytest.raises(
        UsageError, match=r"^scenario bad: name: not a field of a file; a scenario has its file's name$"
    ):
        Scenario.load(bad)
    bad.write_text("warmup = '1 day'")
    with pytest.raises(UsageError, match=r"^scenario bad: warmup: expected a duration"):
        Scenario.load(bad)


def test_sections_that_live_runs_ignore_exist() -> None:
    assert Scenario().ignored_live() == list(LIVE_IGNORES) == ["network", "topology", "faults", "cost"]
    assert set(LIVE_IGNORES) <= set(Scenario.model_fields)


# --- to TOML and back ------------------------------------------------------------------------------------------------

small = st.floats(min_value=1e-9, max_value=1e4)
distributions = st.one_of(
    st.builds(Constant, value=st.floats(min_value=0, max_value=1e9)),
    st.builds(lambda a, b: Uniform(low=min(a, b), high=max(a, b)), small, small),
    st.builds(Exponential, mean=small),
    st.builds(lambda a, factor: Lognormal(median=a, p99=a * factor), small, st.floats(1.001, 100)),
    st.builds(lambda a, alpha: Pareto(minimum=a, alpha=alpha), small, st.floats(1.001, 10)),
    st.builds(lambda a, alpha: Pareto(minimum=a, alpha=alpha, maximum=2 * a), small, st.floats(0.1, 10)),
)


@settings(max_examples=60)
@given(
    latency=distributions,
    service=st.dictionaries(st.sampled_from(sorted(GATEWAY_OPS)), distributions, max_size=3),
    size=st.one_of(st.integers(1, 16384), st.builds(Exponential, mean=small)),
    duration=st.floats(min_value=1.0, max_value=1e9),
    title=st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"])),
    rate=st.floats(min_value=1e-9, max_value=1e6),
)
def test_written_scenario_is_read_back_equal(latency, service, size, duration, title, rate) -> None:
    scenario = Scenario().replace(
        {
            "network.client.latency": latency,
            "topology.gateway.service": service,
            "workload.size": size,
            "duration": duration,
            "title": title,
            "workload.rate": rate,
        }
    )
    assert Scenario.from_toml(scenario.to_toml()) == scenario


def test_durations_are_written_with_units() -> None:
    text = Scenario().replace({"network.client.latency": 0.0003, "workload.size": 200}).to_toml()
    assert 'latency = "300us"' in text
    assert "size = 200\n" in text
    assert 'token_lifetime = "24h"' in text
    assert "name" not in text


# --- presets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRESETS.split(", "))
def test_preset_is_valid_and_every_section_has_a_comment(name: str) -> None:
    scenario = Scenario.load(name)
    assert Scenario.presets()[name] == scenario.title
    assert scenario.title.endswith("?")
    assert scenario.name == name
    assert Scenario.from_toml(scenario.to_toml(), name=name) == scenario
    assert Scenario.from_toml(Scenario.preset_text(name), name=name) == scenario
    lines = Scenario.preset_text(name).splitlines()
    for section, above in ((line, lines[i - 1]) for i, line in enumerate(lines) if line.startswith("[")):
        assert above.startswith("#") or section.endswith(".service]")


def test_all_presets_are_listed() -> None:
    folder = Path(Scenario.load.__func__.__code__.co_filename).parent / "presets"
    assert sorted(path.stem for path in folder.iterdir()) == list(Scenario.presets()) == PRESETS.split(", ")


def test_preset_has_precedence_over_a_file_of_the_same_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("office").write_text("seed = 99")
    assert Scenario.load("office").seed == 1
    assert Scenario.load("./office").seed == 99


def test_sections_refuse_unknown_fields_and_convert_nothing() -> None:
    for section in (Scenario, *Section.__subclasses__()):
        assert section.model_config["extra"] == "forbid"
        assert section.model_config["strict"] is True
        assert section.model_config["frozen"] is True
