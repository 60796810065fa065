"""Shortcuts that the model's own forward adds: branches that are scaled down are healthy, branches that vanish beside others are not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis.shortcuts import norm_past
from headwater.findings import Severity
from headwater.recording import SignalKind


class ScaledBranches(nn.Module):
    """LayerScale (Touvron et al. 2021, arXiv 2103.17239) in a loop of the model itself."""

    def __init__(self, scale, num_blocks=8, width=24, *, stem=True):
        super().__init__()
        self.stem, self.head = nn.Linear(10, width) if stem else nn.ZeroPad1d((0, width - 10)), nn.Linear(width, 3)
        self.branches = nn.ModuleList(
            nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
            for _ in range(num_blocks)
        )
        self.scales = nn.ParameterList(nn.Parameter(torch.full((width,), scale)) for _ in range(num_blocks))

    def forward(self, x):
        x = self.stem(x)
        for branch, scale in zip(self.branches, self.scales, strict=True):
            x = x + scale * branch(x)
        return self.head(x)


class Block(nn.Module):
    """A branch that starts scaled down, with its own shortcut or without one."""

    def __init__(self, scale, width, *, shortcut):
        super().__init__()
        self.norm, self.first, self.second = (
            nn.LayerNorm(width),
            nn.Linear(width, 2 * width),
            nn.Linear(2 * width, width),
        )
        self.scale, self.shortcut = nn.Parameter(torch.full((width,), scale)), shortcut

    def forward(self, x):
        branch = self.scale * self.second(torch.nn.functional.gelu(self.first(self.norm(x))))
        return x + branch if self.shortcut else branch


def blocks(scale, *, shortcut, num_blocks=4, width=24):
    """Blocks that read the data themselves."""
    made = [Block(scale, width, shortcut=shortcut) for _ in range(num_blocks)]
    return nn.Sequential(nn.ZeroPad1d((0, width - 10)), *made, nn.Linear(width, 3))


class TwoTowers(nn.Module):
    """A deep tower of sigmoids and a shallow one on the same stem: neither is a shortcut around the other."""

    def __init__(self, width=24):
        super().__init__()
        self.stem, self.shallow, self.head = nn.Linear(10, width), nn.Linear(width, width), nn.Linear(width, 3)
        layers = [layer for _ in range(20) for layer in (nn.Linear(width, width), nn.Sigmoid())]
        self.deep = nn.Sequential(*layers)

    def forward(self, x):
        x = torch.tanh(self.stem(x))
        return self.head(self.deep(x) + torch.tanh(self.shallow(x)))


class AddsBeside(TwoTowers):
    """Something else is added to what the deep tower reads, for the shallow one alone."""

    def __init__(self, width=24):
        super().__init__(width)
        self.beside = nn.Linear(10, width)

    def forward(self, x):
        stem, beside = self.stem(x), self.beside(x)
        return self.head(self.deep(stem) + torch.tanh(self.shallow(stem + beside)))


def _alarms(model):
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(32, 10, generator=generator), torch.randint(0, 3, (32,), generator=generator)
    findings = hw.diagnose(model, x, targets, loss=nn.CrossEntropyLoss(), samples=0).findings
    return [finding.code for finding in findings if finding.severity >= Severity.WARNING]


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_branches_that_are_scaled_down_beside_the_stream_are_no_alarm(scale):
    torch.manual_seed(0)
    assert _alarms(ScaledBranches(scale)) == []


@pytest.mark.parametrize("scale", [1e-2, 1e-4, 1e-6])
def test_a_first_block_that_reads_the_data_counts_as_the_others_do(scale):
    """The data have no gradient, so nothing is measured of what flows around it."""
    torch.manual_seed(0)
    assert _alarms(ScaledBranches(scale, stem=False)) == []
    assert _alarms(blocks(scale, shortcut=True)) == []


def test_scaled_down_blocks_without_a_shortcut_are_an_alarm():
    torch.manual_seed(0)
    assert "HW101" in _alarms(blocks(1e-3, shortcut=False))


def test_an_addition_that_is_not_of_the_branch_is_no_shortcut():
    torch.manual_seed(0)
    x = torch.randn(32, 10)
    recording = hw.diagnose(AddsBeside(), x, loss=lambda output: output.square().mean(), samples=0).recording
    call = next(call for call in recording.calls if call.module == "deep")
    share = recording.select(SignalKind.INPUT_GRADIENT, depth=call.depth)[0].stats.norm
    assert norm_past(recording, call, share) == share


def test_a_tower_that_vanishes_beside_another_one_is_an_alarm():
    torch.manual_seed(0)
    assert "HW101" in _alarms(TwoTowers())
