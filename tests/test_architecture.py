"""The rules of the architecture: the layers, the pure core, and the modules that `import imsim` must not load."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import grimp
import pytest

ROOT = Path(__file__).parents[1]
CORE = ROOT / "imsim" / "core"

#: The modules that the core may import besides its own: data types and pure functions of the standard library.
PURE = {
    "__future__", "bisect", "collections", "collections.abc", "dataclasses", "enum", "hashlib", "heapq", "itertools",
    "json", "math", "re", "typing", "zlib",
}  # fmt: skip


def imports_of(file: Path) -> set[str]:
    names = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names.add(("." * node.level) + (node.module or ""))
    return names


@pytest.mark.parametrize("file", sorted(CORE.rglob("*.py")), ids=lambda file: file.stem)
def test_core_imports_pure_modules_only(file):
    """The core has no clock, no random numbers, no I/O and no threads, neither from modules nor from built-ins."""
    assert {name for name in imports_of(file) if not name.startswith("imsim.core")} <= PURE
    calls = [node.func for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Call)]
    called = {function.id for function in calls if isinstance(function, ast.Name)}
    assert not called & {"open", "print", "input", "exec", "eval", "__import__", "globals", "hash", "id"}


def test_core_lists_all_its_modules():
    named = re.findall(r"`(\w+)`", (CORE / "__init__.py").read_text().partition("Read in this order")[2])
    parts = {part.stem for part in CORE.rglob("*") if part.suffix == ".py" or part.is_dir()}
    assert set(named) == parts - {"__init__", "__pycache__"}


def test_imports_of_finds_all_imports(tmp_path):
    file = tmp_path / "impure.py"
    file.write_text("import time, os.path\ndef later():\n    from random import random\n    from . import x\n")
    assert imports_of(file) == {"time", "os.path", "random", "."}


def test_layers_hold():
    result = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture(scope="module")
def imports() -> dict[str, set[str]]:
    """Return the imports of each module: at its top, in functions, and only for type checking."""
    graph = grimp.build_graph("imsim", exclude_type_checking_imports=False, cache_dir=None)
    return {module: graph.find_modules_directly_imported_by(module) for module in graph.modules}


def test_modules_have_no_import_cycle(imports):
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_plots_take_frames_and_plain_values(imports):
    above = {"imsim.analysis", "imsim.analysis.run", "imsim.analysis.metrics"}
    for module in (module for module in imports if module.startswith("imsim.analysis.plots")):
        rows = {name for name in imports[module] if name.startswith(("imsim.results", "imsim.scenario"))}
        assert not rows | (imports[module] & above), module


def loaded_by(statement: str) -> set[str]:
    program = f"{statement}; import sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return {name.split(".")[0] for name in output.split()}


def test_import_of_imsim_loads_no_heavy_module():
    heavy = {"pandas", "numpy", "matplotlib", "pyarrow", "simpy", "locust", "gevent", "websockets", "pydantic", "scipy"}
    assert not loaded_by("import imsim") & heavy


def test_loading_scenario_loads_no_module_for_plots_or_tables():
    heavy = {"pandas", "matplotlib", "pyarrow", "simpy", "locust", "gevent", "websockets", "scipy", "asyncio"}
    assert not loaded_by("from imsim.scenario import Scenario; Scenario.load('office')") & heavy


def test_api_loads_heavy_modules_only_when_used():
    heavy = {"pandas", "matplotlib", "simpy", "locust", "gevent", "websockets", "scipy", "asyncio"}
    assert not loaded_by("import imsim.api, imsim.load.launch, imsim.cli; imsim.api.loadtest") & heavy


def test_public_names_exist():
    import imsim

    assert {name: getattr(imsim, name) for name in imsim.__all__}
    assert set(imsim.__all__) <= set(dir(imsim))
    with pytest.raises(AttributeError, match="nonsense"):
        imsim.nonsense  # noqa: B018
