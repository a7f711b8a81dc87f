"""The result of a check: a finding for each budget, and the verdict on all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from imsim.analysis.kinds import kind_of
from imsim.analysis.latency import split
from imsim.analysis.verdicts import Verdict, worst

if TYPE_CHECKING:
    import pandas as pd

EXIT_CODES: dict[Verdict, int] = {"held": 0, "breached": 3, "undecided": 4, "invalid": 5}


@dataclass(frozen=True)
class Finding:
    """The verdict on one budget, and what it rests on.

    Attributes:
        name: the budget's name.
        metric: the metric, with the part of the run that it is of: delivery.p99[scene=group].
        limit: the limit as a text: `<= 200 ms`, or `<= +5%`.
        verdict: "held", "breached", "undecided" or "invalid".
        value: the mean of the metric; None if it is null.
        low, high: the 95 % interval of `value`, or of `change` if the limit is relative; None if there is none.
        base: the mean of the metric in the baseline; None if the limit is not relative.
        change: value / base - 1; None if the limit is not relative.
        evidence: what was measured, such as "20 replications" or "8 pairs".
        reason: why the verdict is not "held"; empty if it is.
    """

    name: str
    metric: str
    limit: str
    verdict: Verdict
    value: float | None = None
    low: float | None = None
    high: float | None = None
    base: float | None = None
    change: float | None = None
    evidence: str = ""
    reason: str = ""

    @property
    def measured(self) -> str:
        """The value with its interval, as a text."""
        unit = kind_of(split(self.metric)[0]).suffix
        if self.value is None:
            return "null"
        if self.change is None:
            interval = "" if self.low is None else f" [{self.low:.4g}, {self.high:.4g}]"
            return f"{self.value:.4g}{interval}{unit}"
        interval = "" if self.low is None or self.high is None else f" [{self.low:+.2%}, {self.high:+.2%}]"
        return f"{self.change:+.2%}{interval}: {self.base:.4g} -> {self.value:.4g}{unit}"

    def __str__(self) -> str:
        text = f"{self.verdict:<9}  {self.name}: {self.measured}"
        details = ", ".join(filter(None, (self.evidence, self.reason)))
        return f"{text} ({details})" if details else text


class CheckResult:
    """The result of `imsim.check`.

    Attributes:
        findings: a `Finding` for each budget, in the order of the file.
        notes: facts to know before the verdict is used, one sentence each.
        source: the file of budgets.

    Example:
        >>> with open("imsim.toml", "w") as file:
        ...     print('budget = [{ scenario = "office", metric = "lost", max = 0 }]', file=file)
        >>> [finding.evidence for finding in imsim.check().findings]
        ['10 replications of 10 s']
    """

    def __init__(self, source: str, findings: Sequence[Finding], notes: Sequence[str] = ()) -> None:
        self.source = source
        self.findings = tuple(findings)
        self.notes = list(notes)

    def __dir__(self) -> list[str]:
        return ["exit_code", "findings", "notes", "source", "summary", "to_json_dict", "verdict"]

    @property
    def verdict(self) -> Verdict:
        """The verdict on all budgets: the worst one of breached, invalid, undecided and held."""
        return worst([finding.verdict for finding in self.findings])

    def exit_code(self, undecided: Literal["fail", "pass"] = "fail") -> int:
        """Return the exit code of the command: held 0, breached 3, undecided 4, invalid 5.

        Args:
            undecided: "pass" makes an undecided check exit with 0.
        """
        return 0 if self.verdict == "undecided" and undecided == "pass" else EXIT_CODES[self.verdict]

    def summary(self) -> pd.DataFrame:
        """Return a row for each budget: the attributes of its `Finding`."""
        import pandas as pd

        return pd.DataFrame([asdict(finding) for finding in self.findings]).set_index("name")

    def to_json_dict(self) -> dict[str, Any]:
        """Return the object that `imsim check --json` prints."""
        return {
            "verdict": self.verdict,
            "exit_code": self.exit_code(),
            "source": self.source,
            "budgets": [asdict(finding) for finding in self.findings],
            "notes": self.notes,
        }

    def __str__(self) -> str:
        counts = {verdict: sum(one.verdict == verdict for one in self.findings) for verdict in EXIT_CODES}
        of = ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)
        return "\n".join(
            [f"{self.verdict}: {of}", "", *map(str, self.findings), *(f"note: {note}" for note in self.notes)]
        )

    def __repr__(self) -> str:
        return f"<CheckResult of {self.source}: {self.verdict}>"
