"""The pages in docs/ and the README: their examples run, their tables are current, and their links have targets.

`tests/pages.py` describes how examples are run.
"""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import matplotlib.pyplot
import pytest
from pages import NOT_RUN, ROOT, Block, Examples, anchors, blocks, links, reason_not_run

from imsim.results import schema

PAGES = sorted((ROOT / "docs").glob("*.md"))
EXECUTED = [ROOT / "README.md", *PAGES]
LINKED = [*PAGES, *sorted(ROOT.glob("*.md")), ROOT / "results" / "README.md"]


@pytest.fixture(autouse=True)
def _one_process(monkeypatch):
    """Run all replications in this process, which avoids the start of others. Results stay the same."""
    monkeypatch.setenv("LOKY_MAX_CPU_COUNT", "1")
    matplotlib.use("agg")
    yield
    matplotlib.pyplot.close("all")


@pytest.mark.filterwarnings("ignore:.*the generator:UserWarning")  # on a busy machine
@pytest.mark.parametrize("page", EXECUTED, ids=lambda page: page.name)
def test_examples_of_page_run(page, command):
    Examples(page, command).run()


def _tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("field_tables", ROOT / "docs" / "field_tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_tables_are_current():
    tables = _tables()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert tables.refreshed(text) == text, f"{page.name}: refresh the tables: python -m docs.field_tables"


def test_every_generated_table_is_on_one_page():
    used = re.findall(r"^<!-- generated: (.+?) -->$", "".join(page.read_text() for page in PAGES), re.MULTILINE)
    assert sorted(used) == sorted(_tables().TABLES)


def test_units_name_existing_fields():
    tables = _tables()
    models = {model.__name__: model for model in _below(tables.BaseModel)}
    for name in tables.UNITS:
        model, _, field = name.partition(".")
        assert field in models[model].model_fields, name


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("messages", schema.MESSAGES),
        ("deliveries", schema.DELIVERIES),
        ("spans", schema.SPANS),
        ("nodes", schema.NODES),
    ],
)
def test_columns_are_described(table, columns):
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    _, _, section = page.partition(f"\n### run.{table}\n")
    first_cells = re.findall(r"^\| (`.+?`) \|", section.partition("\n##")[0], re.MULTILINE)
    assert re.findall(r"`(\w+)`", " ".join(first_cells)) == columns.names


def _below(model: type) -> list[type]:
    return [one for below in model.__subclasses__() for one in (below, *_below(below))]


@pytest.mark.parametrize("page", LINKED, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_pages_and_headings(page):
    for link in links(page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", link):
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{link}: no such file"
        if anchor:
            assert anchor in anchors(target.read_text(encoding="utf-8")), f"{link}: no such heading"


def test_every_page_is_linked_from_another_page():
    linked = {
        (page.parent / link.partition("#")[0]).resolve()
        for page in LINKED
        for link in links(page.read_text(encoding="utf-8"))
        if not re.match(r"[a-z]+:", link)
    }
    assert set(PAGES) <= linked


# --- the rules of tests/pages.py --------------------------------------------------------------------------------------

PAGE = """# A page

Text.

<!-- test: 60 => 2 -->
<!-- test: save as a.py -->
```python
x = 60
```

```sh
imsim scenarios office   # one
pip install .  && imsim demo
```

## A page

## `--json`, and [links](other.md#x)
"""


def test_block_has_line_and_directives():
    python, _ = blocks(PAGE)
    assert python == Block("python", "x = 60\n", 8, ("60 => 2", "save as a.py"))
    assert python.shortened() == "x = 2\n"
    assert python.file == "a.py"
    with pytest.raises(AssertionError, match="line 8: the block does not contain '60'"):
        Block("python", "y", 8, ("60 => 2",)).shortened()


def test_anchors_are_those_of_github():
    assert anchors(PAGE) == {"a-page", "a-page-1", "--json-and-links"}
    assert links(PAGE) == ["other.md#x"]


def _page(tmp_path: Path, text: str) -> Path:
    page = tmp_path / "page.md"
    page.write_text(text)
    return page


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\n\n1 / 0\n```\n", "division by zero"),
        ("```pycon\n>>> 1 + 1\n3\n```\n", "Expected:\n    3\nGot:\n    2"),
        ("```toml\nduratio = 3\n```\n", "duratio"),
        ("```sh\nimsim simulate nowhere\n```\n", "exit code 2"),
        ("```sh\nrm -r x\n```\n", "no rule to run 'rm -r x'"),
        ("```console\n$ imsim scenarios\nfactory ...\n```\n", "factory"),
        ("```json\n{\n```\n", "Expecting property name"),
        ("```java\n```\n", "unknown kind of block 'java'"),
    ],
)
def test_broken_example_is_an_error(tmp_path, command, text, error):
    with pytest.raises(Exception, match=re.escape(error)):
        Examples(_page(tmp_path, text), command).run()


def test_expected_failure_and_output_pass(tmp_path, command):
    text = """
<!-- test: exit 2 -->
```console
$ imsim simulate office --set population.users=0
imsim: scenario office: population.users: expected at least 1, got 0
```

<!-- test: not run, because it has no end -->
```python
raise SystemExit
```

```python
x = 2
```

```pycon
>>> x + 1
3
```
"""
    Examples(_page(tmp_path, text), command).run()


def test_commands_that_are_not_run_have_a_reason():
    assert all(NOT_RUN.values())
    assert reason_not_run("pip install .") == NOT_RUN["pip"]
    assert reason_not_run("imsim demonstrate") is None
