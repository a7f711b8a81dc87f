"""The runs of a server at each load of a search for its capacity: what is kept of them, and when they decide."""

from __future__ import annotations

import hashlib
import json
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from imsim import disk
from imsim.analysis import Run, warmup
from imsim.analysis.budgets import Budget, Verdict
from imsim.analysis.metrics import Measures
from imsim.analysis.run_length import Behind, behind
from imsim.core.exceptions import RunError, UsageError
from imsim.experiments import fingerprint
from imsim.experiments.store import known
from imsim.load.health import delays_of, workers_of
from imsim.scenario import Scenario

#: The runs at a load: at least (at the two loads of the result), and at most (at any load).
FEWEST_RUNS, MOST_RUNS = 2, 8

#: The runs at a load decide if the mean of the logarithms of (metric / bound) is further from 0 than this many standard
#: errors. It is looked at after each run, so this is more than the 1.64 of a single look at 5 %. Searches on fake
#: servers give brackets without the limit in 0 to 4 % of the cases if the metric varies by up to 30 % between runs, and
#: its curve is steep (a server near its saturation). If it varies by 50 %: 4 %; if the curve is also flat: 27 %.
CLEAR = 2.33

#: The standard deviation of these logarithms that two runs have at least: they may agree by chance. The more runs there
#: are, the more counts how far they are apart. One run decides if it is almost a factor of two from the bound.
_LEAST_DEVIATION = 0.2

#: One run counts for at most a factor of two on either side of the bound, so others outweigh a disturbed one.
_MOST_LOG = math.log(2)

#: If the generator waits for a CPU this share of the time, a server on the same computer waits, too. Beside a server
#: that used up one of two cores, it was 0.1.
_WAITING = 0.25

_LOOPBACK = ("localhost", "127.0.0.1", "::1")

_FILE = "runs.jsonl"


@dataclass(frozen=True)
class LiveRun:
    """One run of a search.

    Attributes:
        values: its metrics: infinite if one falls among messages that never arrived, nan if there are no values.
        load: the load.
        seed: the seed of the run.
        spoilt: why the load generator, or a lack of CPU time on its computer, spoilt it; "" if neither did.
        failed: why the run failed; "" if it did not. A run that fails breaks the budget.
        seconds: how long it took, with logins and drain.
        generator: the generator's own delays in ms (p50, p95, p99) and the largest `cpu` of a worker, if known.
        behind: the data behind percentiles.
        steadiness: the data for notes about the warm-up and overload.
        digest: the digest of its rows.
    """

    values: dict[str, float]
    load: float = math.nan
    seed: int = 0
    spoilt: str = ""
    failed: str = ""
    seconds: float = 0.0
    generator: dict[str, float] = field(default_factory=dict)
    behind: dict[str, Behind] = field(default_factory=dict)
    steadiness: warmup.Steadiness = field(default_factory=warmup.Steadiness)
    digest: str = ""

    @classmethod
    def of(cls, run: Run, measures: Measures) -> LiveRun:
        """Return the data of a run that has just ended. The search adds the load, the seed and the seconds.

        Args:
            run: the run.
            measures: the metrics to measure.

        Raises:
            RunError: the run is partial: it ended early.
        """
        if run.partial:
            raise RunError(str(run.manifest.get("ended", {}).get("reason") or "the run ended early"))
        return cls(
            measures(run),
            spoilt=run.invalid_because or starved(run.manifest),
            generator=_generator(run),
            behind=behind(run, measures.names),
            steadiness=warmup.Steadiness.of(run),
            digest=run.digest,
        )

    def to_json_dict(self) -> dict[str, Any]:
        """Return plain values; infinite and undefined metrics are texts."""
        values = {name: value if math.isfinite(value) else str(value) for name, value in self.values.items()}
        return asdict(self) | {"values": values}

    @classmethod
    def from_json_dict(cls, found: Mapping[str, Any]) -> LiveRun:
        """Return the run that `to_json_dict` described.

        Args:
            found: the plain values.
        """
        values = {name: float(value) for name, value in found["values"].items()}
        all_behind = {name: Behind(**one) for name, one in found["behind"].items()}
        steadiness = warmup.Steadiness.from_json_dict(found["steadiness"])
        return cls(**{**found, "values": values, "behind": all_behind, "steadiness": steadiness})


def _generator(run: Run) -> dict[str, float]:
    """Return the delays of the load generator and its CPU, as far as the manifest has them."""
    workers = workers_of(run.manifest)
    if not workers:
        return {}
    delays = {name: round(value, 3) for name, value in delays_of(workers.values()).items()}
    return {**delays, "cpu": max(worker.cpu for worker in workers.values())}


def starved(manifest: Mapping[str, Any]) -> str:
    """Return why the server of a run lacked CPU time, as far as a load generator beside it knows; "" if it did not.

    Args:
        manifest: the manifest of the run.
    """
    if urlsplit(str(manifest.get("url"))).hostname not in _LOOPBACK:
        return ""
    workers = workers_of(manifest).values()
    waiting = max((worker.waiting or 0.0 for worker in workers), default=0.0)
    if waiting < _WAITING:
        return ""
    return (
        f"server and generator share a computer that lacks CPU time: the generator waited for a CPU {waiting:.0%} of "
        "the time; stop other programs there, use fewer processes, or another computer for the generator"
    )


def judge_runs(budget: Budget, values: Sequence[float], most: int = MOST_RUNS) -> Verdict | None:
    """Return the verdict of the runs at a load; None if more runs may decide.

    Args:
        budget: the budget.
        values: its metric in each run.
        most: the largest number of runs.
    """
    logs = [_log_of(budget, value) for value in values]
    mean = statistics.fmean(logs)
    least = _LEAST_DEVIATION * math.sqrt(2 / len(logs))
    deviation = max(least, statistics.stdev(logs)) if len(logs) > 1 else least
    if abs(mean) > CLEAR * deviation / math.sqrt(len(logs)):
        return "keeps" if mean < 0 else "breaks"
    return "undecided" if len(logs) >= most else None


def _log_of(budget: Budget, value: float) -> float:
    """Return how far the value is from the bound, as a logarithm: negative if it keeps the budget."""
    if math.isnan(value):
        raise UsageError(
            f"capacity: a run has nothing to measure {budget.metric} by; make the scenario's duration longer, or start "
            "from a higher load"
        )
    size = _MOST_LOG
    if value > 0 and budget.bound > 0 and math.isfinite(value):
        size = min(abs(math.log(value / budget.bound)), _MOST_LOG)
    return -size if budget.is_kept_by(value) else size


class RunStore:
    """The finished runs of searches in a folder: one line of JSON for each in `runs.jsonl`.

    Args:
        folder: the folder, which is made; None keeps nothing.
        measures: the metrics; a function counts by its code.
        setup: everything that a run depends on besides its scenario, such as the url and the adapter.
    """

    def __init__(self, folder: Path | None, measures: Measures, setup: Mapping[str, Any]) -> None:
        self._path = None if folder is None else folder / _FILE
        functions = (
            {}
            if folder is None
            else {name: known(fingerprint.function, one) for name, one in measures.functions.items()}
        )
        self._setup = {**setup, "functions": functions}
        self._found: dict[str, LiveRun] = {}
        if folder is not None and self._path is not None:
            with disk.errors("write to the folder", folder, name="out"):
                folder.mkdir(parents=True, exist_ok=True)
                self._path.touch()
                text = self._path.read_text(encoding="utf-8", errors="replace")
            for line in text.splitlines():
                try:
                    entry = json.loads(line)
                    self._found[entry["key"]] = LiveRun.from_json_dict(entry["run"])
                except (ValueError, TypeError, KeyError):
                    pass  # an incomplete line of a process that was killed
            self._begin = "" if not text or text.endswith("\n") else "\n"

    def get(self, design: Scenario) -> LiveRun | None:
        """Return the finished run of this scenario, which has the seed of the run.

        Args:
            design: the scenario.
        """
        return self._found.get(self._key(design) or "")

    def put(self, design: Scenario, run: LiveRun) -> None:
        """Keep a finished run.

        Args:
            design: the scenario.
            run: the run.
        """
        key = self._key(design)
        if self._path is None or key is None:
            return
        line = json.dumps({"key": key, "run": run.to_json_dict()})
        note = "finished runs are kept, and are not run again"
        with disk.errors("write", self._path, name="out", note=note), self._path.open("a", encoding="utf-8") as file:
            file.write(f"{self._begin}{line}\n")
        self._begin = ""

    def _key(self, design: Scenario) -> str | None:
        if self._path is None or None in self._setup["functions"].values():
            return None
        digest = known(fingerprint.design, design)
        if digest is None:
            return None
        setup = {**self._setup, "design": digest, "seed": design.seed}
        return hashlib.sha256(json.dumps(setup, sort_keys=True).encode()).hexdigest()
