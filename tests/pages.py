"""Run the examples of a Markdown page: Python, scenarios, commands and sessions, in the order of the page.

The kind of a code block decides how it is run:

- `python`: executed. All blocks of a page share their names, like the cells of a notebook. `await` works as it does in
  a notebook.
- `pycon`: a doctest. Its input may use the names of earlier `python` blocks, and its output must match.
- `toml`: a scenario. It is loaded, and its first seconds are simulated. Budgets (`[[budget]]`) are read.
- `sh`: each line is a command and must succeed. `imsim serve`, and a line that ends in `&`, run in the background until
  the end of the page, on a free port, which later blocks use instead of 8765. Such a command prints `listening on URL`.
- `console`: lines that start with `$ ` are commands; the lines below them are their output, which must match.
- `json`: valid JSON.
- `text`, `mermaid` and blocks without a kind are not examples. `tests/test_protocol.py` runs `im`.

`imsim load`, `locust` and `imsim faultsearch` are shortened to 2 s, 2 s with 20 users, and 5 seeds. A load test may be
invalid (exit code 5), because the machine is busy.

In expected outputs, `...` stands for any text, and amounts of white space do not count. A comment above a block can
change how the block is run. Readers of the page do not see it:

- `<!-- test: A => B -->` replaces the text A, which must be in the block, by B. It makes long examples short.
- `<!-- test: save as NAME -->` writes the block to a file, for later examples.
- `<!-- test: exit CODE -->` expects that the commands of the block exit with this code.
- `<!-- test: not run, because ... -->` does not run the block.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import doctest
import io
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]

_FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_DIRECTIVE = re.compile(r"<!-- test: ((?:(?!-->).)*) -->\n\Z", re.DOTALL)
_NOT_EXAMPLES = ("", "text", "mermaid", "im")
_DOCTEST = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
_INVALID = 5  # the exit code of a load test that the generator spoilt
_SECONDS = 3.0  # of a scenario that are simulated

#: Commands that are not run here, and why.
NOT_RUN = {
    "pip": "installs packages",
    "git": "needs a network",
    "cd": "changes nothing here",
    "python -m venv": "makes an environment",
    "source": "uses an environment",
    "pytest": "runs these tests",
    "jupyter": "does not end",
    "ruff": "is run by tests/test_quality.py",
    "mypy": "is run by tests/test_quality.py",
    "imsim demo": "is run by tests/test_cli.py",
}

Command = Callable[..., "subprocess.CompletedProcess[str]"]


@dataclass(frozen=True)
class Block:
    """A code block of a page. `line` is the line of its first line of code, from 1."""

    language: str
    text: str
    line: int
    directives: tuple[str, ...] = ()

    @property
    def reason_not_run(self) -> str | None:
        return next((one.partition(", because ")[2] for one in self.directives if one.startswith("not run")), None)

    @property
    def exit_code(self) -> int:
        return next((int(one.removeprefix("exit ")) for one in self.directives if one.startswith("exit ")), 0)

    @property
    def file(self) -> str | None:
        return next((one.removeprefix("save as ") for one in self.directives if one.startswith("save as ")), None)

    def shortened(self) -> str:
        """Return the text with the replacements of its directives."""
        text = self.text
        for one in self.directives:
            if " => " in one:
                old, new = one.split(" => ")
                assert old in text, f"line {self.line}: the block does not contain {old!r}"
                text = text.replace(old, new)
        return text


def blocks(page: str) -> list[Block]:
    found = []
    for fence in _FENCE.finditer(page):
        before, directives = page[: fence.start()], []
        while directive := _DIRECTIVE.search(before):
            directives.insert(0, directive[1])
            before = before[: directive.start()]
        found.append(Block(fence[1], fence[2], page.count("\n", 0, fence.start()) + 2, tuple(directives)))
    return found


@dataclass
class Examples:
    """The examples of one page, run in the current folder."""

    page: Path
    command: Command
    names: dict[str, Any] = field(default_factory=lambda: {"__name__": "__main__"})
    url: str | None = None  # of the server that the page has started
    _servers: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _loop: asyncio.Runner | None = None  # of the blocks with an `await`

    def run(self) -> None:
        run = {
            "python": self._python,
            "pycon": self._pycon,
            "toml": self._toml,
            "sh": self._sh,
            "console": self._console,
            "json": lambda block: json.loads(block.text),
        }
        with self._servers:
            self._servers.enter_context(_importable(Path.cwd()))
            for block in blocks(self.page.read_text(encoding="utf-8")):
                if block.file is not None:
                    Path(block.file).write_text(block.text, encoding="utf-8")
                if block.language in _NOT_EXAMPLES or block.reason_not_run is not None:
                    continue
                assert block.language in run, f"{self.page.name}:{block.line}: unknown kind of block {block.language!r}"
                try:
                    run[block.language](block)
                except Exception as error:
                    error.add_note(f"in {self.page.name}, line {block.line}: {block.text}")
                    raise

    def _here(self, text: str) -> str:
        """Return a text in which the address of the page's server is the real one."""
        return text if self.url is None else re.sub(r"127\.0\.0\.1:8765", self.url.removeprefix("ws://"), text)

    def _python(self, block: Block) -> None:
        lines = "\n" * (block.line - 1)  # so that a traceback shows the line of the page
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        code = compile(lines + self._here(block.shortened()), str(self.page), "exec", flags)
        running = eval(code, self.names)  # a coroutine if the block has an `await`
        if running is not None:
            if self._loop is None:
                self._loop = self._servers.enter_context(asyncio.Runner())
            self._loop.run(running)

    def _pycon(self, block: Block) -> None:
        parser, report = doctest.DocTestParser(), io.StringIO()
        test = parser.get_doctest(self._here(block.shortened()), {}, self.page.name, str(self.page), block.line - 1)
        test.globs = self.names
        runner = doctest.DocTestRunner(optionflags=_DOCTEST, verbose=False)
        failed = runner.run(test, out=report.write, clear_globs=False).failed
        assert not failed, report.getvalue()

    def _toml(self, block: Block) -> None:
        import imsim
        from imsim.experiments.check.file import Budgets

        if "[[budget]]" in block.text:
            path = Path("budgets-of-a-block.toml")
            path.write_text(block.shortened(), encoding="utf-8")
            assert Budgets.read(path).entries
            return
        name = Path(block.file).stem if block.file else "page"
        scenario = imsim.Scenario.from_toml(block.shortened(), name=name)
        scenario = scenario.lasting(min(scenario.duration, _SECONDS))
        run = imsim.simulate(scenario)
        assert len(run.messages)
        assert "delivered" in set(run.deliveries.outcome)

    def _sh(self, block: Block) -> None:
        for line in _lines(block.shortened()):
            self._execute(line, block.exit_code)

    def _console(self, block: Block) -> None:
        for example in re.split(r"^\$ ", block.shortened(), flags=re.MULTILINE)[1:]:
            line, _, expected = example.partition("\n")
            found = self._execute(line, block.exit_code)
            assert found is not None, line
            checker = doctest.OutputChecker()
            # Errors go to standard error, so one of the two is empty in most examples.
            text = found.stdout + found.stderr
            if not checker.check_output(expected, text, _DOCTEST):
                shown = doctest.Example(line, expected)
                raise AssertionError(checker.output_difference(shown, text, doctest.REPORT_NDIFF))

    def _execute(self, line: str, exit_code: int) -> subprocess.CompletedProcess[str] | None:
        """Run one command. None: it is not run, or runs in the background."""
        if reason_not_run(line) is not None:
            return None
        program, *arguments = shlex.split(self._here(line), comments=True)
        if program == "imsim" and arguments[0] == "serve":
            port = [] if any(argument.startswith("--port") for argument in arguments) else ["--port", "0"]
            self._serve(["-m", "imsim", *arguments, *port])
            return None
        if program == "python" and arguments[-1] == "&":
            self._serve(arguments[:-1])
            return None
        if program == "imsim":
            result = self.command(*_shortened(arguments))
        elif program == "python":
            result = _process([sys.executable, *arguments])
        elif program == "locust":
            with contextlib.suppress(FileExistsError):
                os.symlink(ROOT / "locustfiles", "locustfiles")
            result = _process([sys.executable, "-m", "locust", *arguments, "--headless", "-u", "20", "-t", "2s"])
        elif program == "curl":
            result = _process(["curl", "-sS", "--fail", "--max-time", "10", *arguments])
        else:
            raise AssertionError(f"no rule to run {line!r}: see NOT_RUN and _execute in tests/pages.py")
        is_spoilt = exit_code == 0 and result.returncode == _INVALID and (program == "locust" or arguments[0] == "load")
        shown = f"{line}: exit code {result.returncode}\n{result.stdout}{result.stderr}"
        assert is_spoilt or result.returncode == exit_code, shown
        return result

    def _serve(self, arguments: list[str]) -> None:
        """Run Python with these arguments: a server on a free port, which is stopped at the end of the page."""
        command = [sys.executable, "-u", *map(_free, arguments)]
        process = self._servers.enter_context(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
        self._servers.callback(process.terminate)
        assert process.stdout is not None
        self.url = next(line.split()[2] for line in process.stdout if line.startswith("listening on "))


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let imports find the files of a folder, as Python does for a script in it. Forget them at the end."""
    path = sys.path.copy()
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path[:] = path
        for name, module in list(sys.modules.items()):
            if str(getattr(module, "__file__", None) or "").startswith(str(folder)):
                del sys.modules[name]


def _shortened(arguments: list[str]) -> list[str]:
    """Return the arguments of `imsim`, with less real time and fewer seeds. The last value of an option counts."""
    if arguments[0] == "load":
        return [*arguments, "--duration", "2"]
    return ["5" if before == "--seeds" else one for before, one in zip(["", *arguments], arguments, strict=False)]


def _free(argument: str) -> str:
    return argument.replace("8765", "0") if argument in ("8765", "--port=8765") else argument


def _process(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def _lines(text: str) -> Iterator[str]:
    """Yield the commands of a shell block. A line that ends in a backslash continues on the next one."""
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip() and not line.startswith("#"):
            yield from (part.strip() for part in line.split("&&"))


def reason_not_run(line: str) -> str | None:
    return next((why for start, why in NOT_RUN.items() if re.match(rf"{re.escape(start)}\b", line)), None)


# --- links ------------------------------------------------------------------------------------------------------------

_LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} +(.+?) *$", re.MULTILINE)


def links(page: str) -> list[str]:
    """Return the targets of a page's links and images."""
    without_blocks = _FENCE.sub("", page)
    return _LINK.findall(re.sub(r"(?<!\[)`[^`\n]*`(?!\])", "", without_blocks))


def anchors(page: str) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    seen: dict[str, int] = {}
    found = set()
    for heading in _HEADING.findall(_FENCE.sub("", page)):
        slug = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()).replace(" ", "-")
        number = seen[slug] = seen.get(slug, -1) + 1
        found.add(f"{slug}-{number}" if number else slug)
    return found
