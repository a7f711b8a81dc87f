"""The page of a report: the template, filled in. Everything but the figures is escaped."""

from __future__ import annotations

import platform
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from imsim.analysis.report.figures import svg
from imsim.analysis.report.parts import Drawing, Part, Verdict
from imsim.results.manifest import version

#: The order in which verdicts matter to a reader.
_WORST = ("breached", "invalid", "undecided", "held")


def page(
    parts: Sequence[Part], *, verdicts: Sequence[Verdict] = (), title: str | None = None, notes: Sequence[str] = ()
) -> str:
    """Return the page as one HTML document.

    Args:
        parts: what the report is about, in this order.
        verdicts: the verdicts on budgets. They are the first thing on the page.
        title: the title of the page. None means that of the first part.
        notes: facts about the verdicts to know before they are used.
    """
    folder = files(__package__)
    environment = Environment(
        loader=FileSystemLoader(str(folder)),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    figures = _Figures()
    environment.filters["breakable"] = _breakable
    environment.globals["svg"] = figures.svg
    template = environment.get_template("page.html.j2")
    name = title if title is not None else parts[0].title if parts else "Budgets"
    page: str = template.render(
        title=name,
        parts=parts,
        verdicts=verdicts,
        verdict=min((one.verdict for one in verdicts), key=_rank, default=""),
        counts=sorted(Counter(one.verdict for one in verdicts).items(), key=lambda item: _rank(item[0])),
        notes=notes,
        style=Markup((folder / "page.css").read_text(encoding="utf-8")),
        made=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        version=version(),
        machine=f"{platform.system()}, Python {platform.python_version()}",
    )
    return page


class _Figures:
    """The figures of a page, numbered in the order in which they are drawn."""

    def __init__(self) -> None:
        self._count = 0

    def svg(self, drawing: Drawing) -> Markup:
        self._count += 1
        return svg(drawing, self._count)


def _breakable(text: str) -> Markup:
    """Return a text whose long names may be broken after dots and underscores, so that tables fit a phone and paper."""
    return Markup(re.sub(r"([._](?=[^\W\d]))", r"\1<wbr>", str(escape(text))))


def _rank(verdict: str) -> int:
    return _WORST.index(verdict) if verdict in _WORST else -1
