"""HW103 at zero weights beside a bias: in a plain network all waits for the step, and where the input is read again nothing does."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import ZeroGradient
from tests.rules.conclusions import assert_well_said, the_finding

CLASSES = nn.CrossEntropyLoss()


def with_zero_weight(layer, bias=1.0):
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, bias)
    return layer


def judged(model, inputs, loss, targets=None, *, lines=True):
    return the_finding(observe(Problem(model, inputs, targets, loss), lines=lines), ZeroGradient())


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


class SpatialTransformer(nn.Module):
    """A picture is moved as its own localisation says, which says "not at all" at first (Jaderberg et al. 2015)."""

    def __init__(self):
        super().__init__()
        self.localisation = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), with_zero_weight(nn.Linear(32, 6)))
        with torch.no_grad():
            self.localisation[2].bias.copy_(torch.tensor([1.0, 0.0, 0.0, 0.0, 1.0, 0.0]))
        self.conv, self.head = nn.Conv2d(1, 8, 3), nn.Linear(288, 3)

    def forward(self, x):
        grid = F.affine_grid(self.localisation(x.flatten(1)).view(-1, 2, 3), list(x.shape), align_corners=False)
        return self.head(F.relu(self.conv(F.grid_sample(x, grid, align_corners=False))).flatten(1))


class Coupling(nn.Module):
    """y2 = x2 exp(s(x1)) + t(x1), with s and t constant at first (Dinh et al. 2017, arXiv 1605.08803)."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), with_zero_weight(nn.Linear(16, 8), 0.1))

    def forward(self, x):
        fixed, moved = x.chunk(2, 1)
        scale, shift = self.net(fixed).chunk(2, 1)
        return torch.cat([moved * scale.exp() + shift, fixed], 1)


def likelihood(output):
    return 0.5 * output.square().sum(1).mean()


@pytest.mark.parametrize("num_couplings", [1, 2, 4])
def test_the_first_coupling_of_a_flow_is_only_worth_knowing(num_couplings):
    torch.manual_seed(0)
    model = nn.Sequential(*(Coupling() for _ in range(num_couplings)))
    finding = judged(model, randn(32, 8), likelihood)
    assert finding.severity is Severity.INFO
    assert finding.modules == tuple(f"{i}.net.2" for i in range(num_couplings))
    assert "after one step of training" in finding.cause
    assert_well_said([finding])


def test_a_spatial_transformer_is_only_worth_knowing():
    torch.manual_seed(0)
    finding = judged(SpatialTransformer(), randn(16, 1, 8, 8), CLASSES, torch.arange(16) % 3)
    assert (finding.severity, finding.modules) == (Severity.INFO, ("localisation.2",))
    assert "other layers get theirs past it" in finding.message


PLAIN = {
    "in the middle": lambda: [nn.Linear(16, 32), nn.ReLU()],
    "before a norm": lambda: [nn.BatchNorm1d(16, affine=False), nn.Tanh(), nn.Linear(16, 32), nn.ReLU()],
    "before dropout": lambda: [nn.Dropout(0.5), nn.Linear(16, 32), nn.ReLU()],
    "before late dropout": lambda: [nn.Linear(16, 32), nn.Dropout(0.5), nn.ReLU()],
}


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_network_that_waits_for_its_step_is_still_warned_of(name):
    torch.manual_seed(0)
    first = [nn.Linear(16, 16), nn.ReLU(), with_zero_weight(nn.Linear(16, 16))]
    behind = PLAIN[name]()
    finding = judged(nn.Sequential(*first, *behind, nn.Linear(32, 4)), randn(64, 16), CLASSES, torch.arange(64) % 4)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("2",))


def test_a_zero_head_of_a_plain_network_is_still_warned_of():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), with_zero_weight(nn.Linear(16, 4)))
    finding = judged(model, randn(64, 16), CLASSES, torch.arange(64) % 4)
    assert (finding.severity, finding.modules) == (Severity.WARNING, ("2",))
