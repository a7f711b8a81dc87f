"""The public names: their documentation, their examples, and what tab completion shows."""

from __future__ import annotations

import doctest
import functools
import inspect
import subprocess
import sys
import types

import pandas as pd
import pytest
from matplotlib import pyplot

import imsim
from imsim import api
from imsim.scenario import Scenario

#: Names of pydantic, of modules that imsim imports, and of helpers, none of which a user needs.
INTERNAL = {"annotations", "construct", "copy", "core_policies", "dict", "json", "make", "np", "parse_obj", "tables"}

FUNCTIONS = [name for name in imsim.__all__ if inspect.isfunction(getattr(imsim, name))]
CLASSES = [name for name in imsim.__all__ if inspect.isclass(getattr(imsim, name))]


@pytest.fixture(scope="module")
def objects() -> dict[str, object]:
    office = Scenario.load("office", {"duration": "2s", "population.users": 30, "cost.router": 0.1})
    many = {"replications": 2, "jobs": 1}
    run = imsim.simulate(office, spans=True)
    return {
        "imsim": imsim,
        "imsim.theory": imsim.theory,
        "Scenario": Scenario,
        "scenario": office,
        "section": office.topology,
        "Empirical": imsim.Empirical,
        "distribution": imsim.Empirical(values=(1.0,)),
        "budget": imsim.Budget("lost <= 0"),
        "run": run,
        "plot": run.plot,
        "replications": imsim.replicate(office, keep="runs", **many),
        "comparison": imsim.compare(office, office.replace({"topology.routers": 4}), **many),
        "sweep": imsim.sweep(office, {"topology.routers": [1, 2]}, **many),
        "capacity": imsim.capacity(office, "lost <= 0", high=0.3, jobs=1),
    }


OBJECTS = (
    "imsim", "imsim.theory", "Scenario", "scenario", "section", "Empirical", "distribution", "budget", "run", "plot",
    "replications", "comparison", "sweep", "capacity",
)  # fmt: skip


@pytest.mark.parametrize("name", OBJECTS)
def test_tab_completion_shows_public_names_only(objects, name):
    found = dir(objects[name])
    assert found == sorted(found)
    assert not [one for one in found if one.startswith(("_", "model_")) or one in INTERNAL]
    assert {one: getattr(objects[name], one) for one in found}, "each name exists"


def test_completion_of_server_shows_public_names_only():
    assert [name for name in dir(imsim.Served) if not name.startswith("_")] == ["stop"]


def test_completion_of_client_shows_public_names_only():
    client = imsim.Client("ws://127.0.0.1:1", "alice", key="k")
    message = imsim.Message("p2p:alice:bob:1", 1, "p2p:alice:bob", "c1", "p2p", "text", "alice", "bob", 0)
    conversation = imsim.Conversation("p2p:alice:bob", "p2p", "bob", 0, 0, message)
    for one in (
        client,
        message,
        conversation,
        client.group("g"),
        client.chatroom("c"),
        client.friends,
        client.messages(),
    ):
        found = dir(one)
        assert found == sorted(found)
        assert not [name for name in found if name.startswith("_")]
        for name in found:
            member = getattr(type(one), name, None)
            if callable(member) or isinstance(member, property):
                assert inspect.getdoc(member), f"{type(one).__name__}.{name} has no docstring"
    assert {"send_text", "messages", "on", "mark_read", "history", "conversations", "friends"} <= set(dir(client))
    assert not {"machine", "connector", "wake", "lose", "perform"} & set(dir(client))


def test_package_and_api_have_same_names():
    assert imsim.__all__ == api.__all__ == sorted(imsim.__all__, key=lambda name: (name.islower(), name))
    assert dir(imsim) == imsim.__all__
    names: dict[str, object] = {}
    exec("from imsim import *", names)
    assert set(imsim.__all__) <= set(names)


def test_theory_is_module_that_can_be_imported_alone():
    program = "import imsim.theory, sys; print(imsim.theory.mm1_sojourn(80, 0.01), 'imsim.api' in sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    value, has_api = output.split()
    assert float(value) == pytest.approx(0.05)
    assert has_api == "False"
    assert isinstance(imsim.theory, types.ModuleType)


@pytest.mark.parametrize("name", ["imsim", "imsim.theory", *FUNCTIONS, *CLASSES])
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # one process avoids the start of others; results stay the same
    pyplot.switch_backend("agg")
    one = {"imsim": imsim, "imsim.theory": imsim.theory}.get(name) or getattr(imsim, name)
    module = one if inspect.ismodule(one) else sys.modules[one.__module__]
    examples = doctest.DocTestParser().get_doctest(inspect.getdoc(one), {"imsim": imsim}, name, module.__file__, 0)
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS, verbose=False)
    output: list[str] = []
    runner.run(examples, out=output.append)
    assert not runner.failures, "".join(output)
    pyplot.close("all")
    assert examples.examples or (inspect.isclass(one) and issubclass(one, imsim.ImsimError))


@pytest.mark.parametrize("name", CLASSES)
def test_methods_and_properties_have_docstrings_in_google_style(name):
    cls = getattr(imsim, name)
    for member in dir(cls):
        one = getattr(cls, member)
        if member.startswith("_") or not (callable(one) or isinstance(one, property | functools.cached_property)):
            continue
        text = inspect.getdoc(one) or ""
        assert text, f"{name}.{member} has no docstring"
        assert "Raises: " not in text, f"{name}.{member}: `Raises:` begins a section"
        for argument in (
            inspect.signature(one).parameters
            if inspect.isfunction(inspect.unwrap(getattr(one, "__func__", one)))
            else ()
        ):
            assert argument == "self" or f"    {argument}: " in text, f"{name}.{member}: {argument} is not described"


@pytest.mark.parametrize("method", ["load", "from_toml", "replace"])
def test_examples_of_scenario_methods_run(method):
    text = inspect.getdoc(getattr(Scenario, method))
    examples = doctest.DocTestParser().get_doctest(text, {"imsim": imsim}, method, None, 0)
    assert examples.examples
    output: list[str] = []
    doctest.DocTestRunner(verbose=False).run(examples, out=output.append)
    assert not output, "".join(output)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_return_one_type_and_describe_arguments(name):
    """Shared arguments are described in `help(imsim)`."""
    function = getattr(imsim, name)
    hint = inspect.signature(function).return_annotation
    assert isinstance(hint, str)
    assert "|" not in hint
    described = f"{imsim.__doc__}\n{function.__doc__}"
    for argument in inspect.signature(function).parameters:
        assert f"    {argument}: " in described, f"{name}: {argument} is not described"


@pytest.mark.parametrize("name", ["simulate", "replicate", "compare", "sweep", "capacity", "loadtest"])
def test_long_functions_show_progress_by_default(name):
    assert inspect.signature(getattr(imsim, name)).parameters["progress"].default is True


@pytest.mark.parametrize("name", OBJECTS[8:])
def test_columns_and_index_names_of_frames_have_no_spaces(objects, name):
    one = objects[name]
    frames = []
    for attribute in dir(one):
        if attribute in ("cost", "storage", "plot", "save_plot", "write"):
            continue
        value = getattr(one, attribute)
        if callable(value) and not inspect.signature(value).parameters:
            value = value()
        if isinstance(value, pd.DataFrame):
            frames.append(value)
    if name == "run":
        frames += [one.breakdown(by) for by in ("where", "node", "op", "policy")]
        frames += [imsim.summarize(one), one.recovery()]
    assert frames or name == "plot"
    for frame in frames:
        names = [*frame.columns, *(str(index) for index in frame.index.names)]
        assert not [column for column in names if " " in str(column) or "(" in str(column)]


def test_scenarios_can_be_keys():
    office = Scenario.load("office")
    other = office.replace({"workload.rate": 9})
    assert {office: 1, other: 2}[Scenario.load("office")] == 1
    assert hash(other.replace({"workload.rate": office.workload.rate})) == hash(office)
    assert len({Scenario.load(name) for name in Scenario.presets()}) == len(Scenario.presets())
    curve = {"kind": "empirical", "values": ["1ms", "2ms"]}
    changes = {"topology.storage.service": {"append": curve}, "faults": [{"kind": "storage_stall", "at": 1}]}
    assert hash(office.replace(changes)) == hash(office.replace(changes)) != hash(office)
    part = office.replace({"topology.placement": lambda name, nodes: nodes[0]})
    assert {part: 1}[part] == 1


def test_scenario_lists_and_shows_its_differences_from_preset():
    office = Scenario.load("office")
    assert office.changes == {}
    assert repr(office) == "<Scenario office: 100 users, 10 s, seed 1>"
    assert "equal to the preset office" in office._repr_html_()
    other = office.replace({"workload.rate": 9, "title": "<How?>", "topology.storage.service.append": "5ms"})
    assert list(other.changes) == ["workload.rate", "topology.storage.service.append"]
    assert other.changes["workload.rate"] == (office.workload.rate, 9.0)
    assert "differs from the preset office in workload.rate, topology.storage.service.append>" in repr(other)
    html = other._repr_html_()
    assert "&lt;How?&gt;" in html
    assert "<td><code>workload.rate</code></td><td>0.3</td><td>9</td>" in html
    assert Scenario(name="mine", seed=4).changes == {"seed": (1, 4)}
    assert "the defaults" in Scenario(name="mine", seed=4)._repr_html_()


def test_sweep_takes_columns_arrays_and_ranges():
    import numpy as np

    from imsim.experiments.sweep import variants

    base = Scenario()
    for values in (pd.Series([1, 2], index=[7, 8]), pd.Index([1, 2]), np.array([1, 2]), range(1, 3), (1, 2)):
        found = variants(base, {"topology.routers": values})
        assert [one.labels for one in found] == [{"topology.routers": 1}, {"topology.routers": 2}]
        assert [type(one.labels["topology.routers"]) for one in found] == [int, int]
    rates = variants(base, {"workload.rate": pd.Series([0.5, 1.0])})
    assert [one.scenario.workload.rate for one in rates] == [0.5, 1.0]
    for wrong in ({1, 2}, "12", np.ones((2, 2)), pd.DataFrame({"a": [1]}), 5):
        with pytest.raises(imsim.UsageError, match=r"over: topology\.routers: expected a list of values"):
            variants(base, {"topology.routers": wrong})


def test_summarize_passes_warnings_of_runs_on():
    crowded = {"topology.storage.queue": 1, "topology.storage.service.append": "1s", "topology.storage.workers": 1}
    calm, full = (
        imsim.simulate(Scenario.load("office", changes), duration="2s", progress=False) for changes in ({}, crowded)
    )
    assert not calm.warnings
    assert full.warnings
    with pytest.warns(UserWarning, match=r"storage0") as found:
        table = imsim.summarize([calm, full])
    label = table.index[1]
    assert [str(one.message) for one in found] == [f"{label}: {line}" for line in full.warnings]


def test_progress_is_silent_without_terminal(capfd):
    imsim.simulate("office", duration="1s")
    imsim.replicate("office", replications=2, duration="1s", jobs=1)
    assert capfd.readouterr() == ("", "")
