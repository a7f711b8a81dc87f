"""Python's garbage collector, out of the way while many objects are made and few are let go."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def no_garbage_collection() -> Iterator[None]:
    """A run makes millions of objects and leaves no cycle among them (tested): looking for some takes a fifth of its
    time, and in a large world more. The small worlds of the fault search do have cycles, which can wait until their
    end: they take a sixth less time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()
