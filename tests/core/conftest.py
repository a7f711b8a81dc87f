from __future__ import annotations

import pytest
from core.builders import Phone


@pytest.fixture
def phone() -> Phone:
    """Bob's, online."""
    return Phone().online()
