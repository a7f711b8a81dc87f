"""The search for an adapter: by name, by path, and by the entry point of a package."""

from __future__ import annotations

import importlib.metadata
import sys

import pytest
from load.chat import ChatAdapter

from imsim.core.exceptions import UsageError
from imsim.load.adapters import NAMES, find
from imsim.load.adapters.find import GROUP, absolute, names

SOURCE = """
from dataclasses import dataclass
from imsim.load.adapters import Adapter, Session

@dataclass
class State:
    value: "int" = 0

class Mine(Adapter):
    def session(self, number, user, device):
        raise NotImplementedError
"""


@pytest.fixture
def file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    (tmp_path / "mine.py").write_text(SOURCE)
    yield "mine.py"
    sys.modules.pop("imsim_adapter_mine", None)


def error_of(name: str) -> str:
    with pytest.raises(UsageError) as raised:
        find(name)
    return str(raised.value)


def test_file_with_one_adapter_is_found(file):
    assert find(file).__name__ == "Mine"
    assert find(f"./{file}").__name__ == "Mine"


def test_file_and_class_are_found(file):
    assert find(f"{file}:Mine").__name__ == "Mine"


def test_dotted_path_is_found():
    assert find("load.chat:ChatAdapter") is ChatAdapter
    assert find("load.chat") is ChatAdapter


def test_name_of_imsim_is_found(monkeypatch):
    monkeypatch.setitem(NAMES, "chat", "load.chat:ChatAdapter")
    assert find("chat") is ChatAdapter


def test_entry_point_is_found_and_listed(monkeypatch):
    entry = importlib.metadata.EntryPoint("chat", "load.chat:ChatAdapter", GROUP)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: [entry] if group == GROUP else [])
    assert find("chat") is ChatAdapter
    assert names() == sorted([*NAMES, "chat"])


def test_absolute_name_works_in_any_folder(file, tmp_path, monkeypatch):
    names = [absolute(file), absolute(f"./{file}:Mine")]
    monkeypatch.chdir("/")
    assert names == [f"{tmp_path / file}", f"{tmp_path / file}:Mine"]
    assert {find(name).__name__ for name in names} == {"Mine"}
    assert [absolute(name) for name in ("mqtt", "load.chat:ChatAdapter")] == ["mqtt", "load.chat:ChatAdapter"]


def test_unknown_name_shows_near_name():
    assert "unknown name 'mqt'; did you mean mqtt?" in error_of("mqt")


def test_unknown_name_shows_all_names():
    error = error_of("nonsense")
    assert "there are imsim, mqtt, socketio, websocket, xmpp." in error
    assert "my_adapter.py:MyAdapter works, too" in error


def test_missing_file_is_an_error(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert error_of("missing.py") == "adapter: there is no file missing.py"


def test_missing_module_is_an_error():
    assert error_of("no_such.module").startswith("adapter: cannot import no_such.module: ModuleNotFoundError")


def test_missing_class_is_an_error(file):
    assert error_of(f"{file}:Other") == "adapter: mine.py has no Other"


def test_class_that_is_not_an_adapter_is_an_error(file):
    assert "must be a subclass of imsim.load.adapters.Adapter" in error_of(f"{file}:State")
    assert "must be a subclass of imsim.load.adapters.Adapter" in error_of("load.chat:running")


def test_fault_inside_file_is_an_error(file, tmp_path):
    (tmp_path / file).write_text("import nonsense_module")
    assert error_of(file).startswith("adapter: cannot import mine.py: ModuleNotFoundError: No module named")
    (tmp_path / file).write_text("def broken(:")
    assert "SyntaxError" in error_of(file)


def test_usage_error_inside_file_is_shown_as_it_is(file, tmp_path):
    (tmp_path / file).write_text("from imsim.core.exceptions import UsageError\nraise UsageError('install x')")
    assert error_of(file) == "install x"


def test_file_can_import_its_neighbours(file, tmp_path):
    (tmp_path / "near.py").write_text("from mine import Mine\nclass Near(Mine):\n    pass\n")
    assert find("near.py").__name__ == "Near"
    for name in ("mine", "imsim_adapter_near"):
        del sys.modules[name]


def test_file_with_no_or_two_adapters_is_an_error(file, tmp_path):
    (tmp_path / file).write_text("from imsim.load.adapters import Adapter")
    assert "must define one adapter (got none); name one as mine.py:Class" in error_of(file)
    (tmp_path / file).write_text(SOURCE + "\nclass Other(Mine):\n    pass\n")
    assert "must define one adapter (got Mine, Other)" in error_of(file)
    assert find(f"{file}:Other").__name__ == "Other"


@pytest.mark.parametrize("name", ["", ":", ":Class", "mine.py:", "a b.c", "..", ".x", "dir/"])
def test_odd_names_are_usage_errors(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    error_of(name)
