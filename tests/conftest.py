"""What every test runs under: no network, one torch thread, and properties that never fail for being slow."""

from __future__ import annotations

import os

# Before transformers or wandb is imported: a test that wants a download must fail, not wait.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch
from hypothesis import HealthCheck, settings

# Speed is measured in benchmarks/, never in tests. Continuous integration draws the same examples each time.
settings.register_profile(
    "headwater",
    deadline=None,
    derandomize="CI" in os.environ,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("headwater")


@pytest.fixture(scope="session", autouse=True)
def _one_torch_thread() -> None:
    torch.set_num_threads(1)
