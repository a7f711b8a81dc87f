"""Cases that once broke something, as data: small, each in a file of `cases`, with what it broke.

A seed means another case whenever something is drawn in another way; these stay what they are. To make one of a seed
that fails: `python -m faultsearch.regressions SEED NAME "what it broke"` (in tests/).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from imsim.faultsearch import Case, explain, read, replay

FOLDER = Path(__file__).with_name("cases")

#: name -> {"broke": in words, "case": as `Case.to_json` gives it}
REGRESSIONS: dict[str, dict[str, Any]] = {
    path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))
}


def case_of(name: str) -> Case:
    return read(REGRESSIONS[name]["case"])


def keep(seed: int, name: str, broke: str) -> None:
    """Make the seed's case small, and keep it."""
    smallest = explain(replay(seed)).smallest
    FOLDER.mkdir(exist_ok=True)
    kept = {"broke": broke, "invariant": smallest.violations[0].invariant, "case": smallest.case.to_json()}
    FOLDER.joinpath(f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    keep(int(sys.argv[1]), sys.argv[2], sys.argv[3])
