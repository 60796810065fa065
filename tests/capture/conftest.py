"""What every test of capture runs under."""

from __future__ import annotations

import pytest

from headwater.capture.cpu_moments import load_fused_moments


@pytest.fixture(scope="session", autouse=True)
def _one_kernel() -> None:
    """The compiled kernel from the first test on: recordings that are compared to the last bit are measured alike."""
    load_fused_moments(at_once=True)
