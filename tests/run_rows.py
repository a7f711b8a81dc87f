"""Values that several tests compute from the rows of a run."""

from __future__ import annotations

import numpy as np

import imsim


def delivery_seconds(run: imsim.Run) -> np.ndarray:
    """Return the latency in seconds of each delivery to a recipient after the warm-up."""
    rows = run.deliveries.merge(run.messages[["intent", "intended_at"]], on="intent")
    rows = rows[(rows.role == "recipient") & (rows.intended_at >= run.scenario.warmup * 1e9)]
    assert rows.delivered_at.notna().all()
    return (rows.delivered_at - rows.intended_at).to_numpy(float) / 1e9
