from __future__ import annotations

import pytest
from core.builders import Access, Phone


@pytest.fixture
def access() -> Access:
    """A gateway that nobody is connected to."""
    return Access()


@pytest.fixture
def phone() -> Phone:
    """Bob's, online."""
    return Phone().online()
