from __future__ import annotations

import pytest
from core.storage.builders import FANOUTS

from imsim.core.storage.memory import MemoryStorage


@pytest.fixture(params=FANOUTS)
def store(request: pytest.FixtureRequest) -> MemoryStorage:
    return MemoryStorage(request.param)


@pytest.fixture
def by_read() -> MemoryStorage:
    return MemoryStorage("read")


@pytest.fixture
def by_write() -> MemoryStorage:
    return MemoryStorage("write")
