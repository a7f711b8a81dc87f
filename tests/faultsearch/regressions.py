"""Regression cases: small cases that once broke an invariant, each in a file of `cases` with a description.

The case of a seed changes whenever drawing changes; these files do not. To make a file from a failing seed, run `python
-m faultsearch.regressions SEED NAME "what it broke"` in tests/.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from imsim.faultsearch import Case, explain, read, replay

FOLDER = Path(__file__).with_name("cases")

#: name -> {"broke": a description, "invariant": the invariant that it broke then, "case": the output of `Case.to_json`}
REGRESSIONS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}


def case_named(name: str) -> Case:
    return read(REGRESSIONS[name]["case"])


def keep(seed: int, name: str, broke: str) -> None:
    """Shrink the case of the seed, and write it to a file."""
    smallest = explain(replay(seed)).smallest
    FOLDER.mkdir(exist_ok=True)
    kept = {"broke": broke, "invariant": smallest.violations[0].invariant, "case": smallest.case.to_json()}
    FOLDER.joinpath(f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    keep(int(sys.argv[1]), sys.argv[2], sys.argv[3])
