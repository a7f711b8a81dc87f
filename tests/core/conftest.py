from __future__ import annotations

import pytest
from core.builders import Access, Phone


@pytest.fixture
def access() -> Access:
    """A gateway without connections."""
    return Access()


@pytest.fixture
def phone() -> Phone:
    """Bob's client, online."""
    return Phone().online()
