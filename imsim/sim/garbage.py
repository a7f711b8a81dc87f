"""Runs without Python's garbage collector."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """Disable garbage collection inside a `with` block or a decorated function.

    A run makes millions of objects and no reference cycles (a test checks this). The search for cycles takes a fifth
    of the time of a run, and more in a large world. The small worlds of the fault search do have cycles. Their
    collection can wait until the end of the world, which saves a sixth of the time.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
