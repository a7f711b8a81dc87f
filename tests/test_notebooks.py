"""The notebooks run from top to bottom, and contain their outputs."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

#: Replacements in the cells of a notebook: fewer repetitions and shorter runs than those of the stored outputs.
FEWER = {
    "01_first_look": [('load("office")', 'load("office", {"duration": "2s", "population.users": 40})')],
    "02_validation": [
        ("RUNS = 8 ", "RUNS = 2 "),
        ("500 / rate", "90 / rate"),
        ('{"duration": 6}', '{"duration": 2}'),
        ("CUT, RHO = 400,", "CUT, RHO = 50,"),
    ],
    "03_designs": [
        ('duration="120s",\n    warmup="10s"', 'duration="3s",\n    warmup="1s"'),
        ("replicate(chat, replications=20)", "replicate(chat, replications=3)"),
        ("replications=20, precision={", "replications=3, max_replications=3, precision={"),
        ("replications=8\n", "replications=2\n"),
        (
            '"delivery.p99 < 300ms", tolerance=0.3, max_replications=12',
            '"delivery.mean < 300ms", tolerance=1, max_replications=5, high=9',
        ),
    ],
}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")  # one process avoids the start of others; results stay the same
    notebook = nbformat.read(path, as_version=4)
    for many, few in FEWER.get(path.stem, ()):
        cells = [cell for cell in notebook.cells if cell.cell_type == "code" and many in cell.source]
        assert len(cells) == 1, many
        cells[0].source = cells[0].source.replace(many, few)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute(cwd=str(tmp_path))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_stored_outputs_are_complete_and_small(path):
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert outputs
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert {output.name for output in outputs if output.output_type == "stream"} <= {"stdout"}
    assert path.stat().st_size < 500_000
    assert str(Path.home()) not in path.read_text()


def test_notebooks_exist():
    assert NOTEBOOKS
