"""A report: one HTML page about runs, experiments and verdicts, without scripts and without a network.

Read in this order: `parts` (a page as plain data), `rows` and `readings` (what is kept of a run), `runs`, `provenance`
(the sections about runs), `figures` (drawings as SVG) and `page` (the template, `page.html.j2` and `page.css`).

An experiment offers its `Part` itself: `imsim.experiments.reporting` makes them. So does a check, with `Verdict`s.
"""

from imsim.analysis.report.parts import Drawing, Part, Section, Table, Verdict

__all__ = ["Drawing", "Part", "Section", "Table", "Verdict"]
