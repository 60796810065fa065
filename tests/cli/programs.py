"""Files with factories, good and bad, for the command line to be pointed at; and `headwater` as a process."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

FACTORIES = """
import torch
from torch import nn

import headwater as hw


def healthy():
    return hw.Problem(nn.Linear(2, 1), torch.ones(4, 2), torch.zeros(4, 1), nn.MSELoss())


def vanishing():
    layers = [layer for _ in range(20) for layer in (nn.Linear(8, 8), nn.Sigmoid())]
    return hw.Problem(nn.Sequential(*layers, nn.Linear(8, 1)), torch.randn(4, 8), torch.zeros(4, 1), nn.MSELoss())


def talkative():
    print("loading the data")
    return healthy()


def raises():
    raise ValueError("the data are gone\\nsecond line")


def exits():
    raise SystemExit("usage: train.py")


def interrupted():
    raise KeyboardInterrupt


def on_cuda():
    return hw.Problem(nn.Linear(2, 1).cuda(), torch.ones(4, 2))


def loss_on_cuda():
    return hw.Problem(nn.Linear(2, 1), torch.ones(4, 2), loss=lambda output: output.cuda().mean())


def nothing():
    healthy()


def bare_model():
    return nn.Linear(2, 1)


def with_arguments(path, *, width=3):
    return healthy()


def without_parameters():
    return hw.Problem(nn.ReLU(), torch.ones(4, 2))


def vector_loss():
    return hw.Problem(nn.Linear(2, 1), torch.ones(4, 2), torch.zeros(4, 1), nn.MSELoss(reduction="none"))


def wrong_inputs():
    return hw.Problem(nn.Linear(2, 1), torch.ones(4, 3))


instance = healthy()
number = 3
"""


def run(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """`headwater` with these arguments in a process of its own, its output as UTF-8 text."""
    return subprocess.run(
        [sys.executable, "-m", "headwater.cli", *arguments],
        cwd=cwd,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
