"""What is measured between operations, beside plain autograd in float64."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint

from headwater.capture import Problem, observe

INPUTS = torch.randn(6, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


class Traced(nn.Module):
    """A model whose forward keeps its intermediate tensors, for the oracle to differentiate by."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8).double(), nn.Linear(8, 8).double()
        self.kept: dict[str, torch.Tensor] = {}

    def keep(self, name, tensor):
        self.kept[name] = tensor
        return tensor


class Branches(Traced):
    def forward(self, x):
        x = self.keep("F.linear", self.first(x))
        left = self.keep("torch.tanh", torch.tanh(x))
        right = self.keep("F.gelu", F.gelu(x))
        return (left + right) * 2.0


class SplitOutputs(Traced):
    def forward(self, x):
        x = self.keep("F.linear", self.first(x))
        a, b = x.chunk(2, dim=-1)
        return self.keep("torch.cat", torch.cat([a.sigmoid(), 3.0 * b], dim=-1)).sin()


class InPlace(Traced):
    def forward(self, x):
        x = self.first(x)
        x = self.keep("F.relu", F.relu(x, inplace=True))
        return self.keep("torch.exp", torch.exp(x * 0.5))


def norms(recording):
    return {o.name: o.gradient_norm for o in recording.operations if not o.is_cut}


@pytest.mark.parametrize("make", [Branches, SplitOutputs, InPlace], ids=lambda make: make.__name__)
def test_what_arrives_at_an_operation_is_the_gradient_of_what_it_returned(make):
    model = make()
    found = norms(observe(Problem(model, INPUTS)))
    output = model(INPUTS)
    cotangent = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).double()
    names = [name for name in model.kept if model.kept[name].grad_fn is not None]
    expected = torch.autograd.grad(output, [model.kept[name] for name in names], cotangent)
    for name, gradient in zip(names, expected, strict=True):
        assert found[name] == pytest.approx(gradient.norm().item(), rel=1e-12)


def test_where_several_read_one_each_ones_share_is_measured():
    model = Branches()
    recording = observe(Problem(model, INPUTS))
    by_index = {o.index: o.name for o in recording.operations}
    shares = {
        by_index[e.operation]: e.gradient_norm for e in recording.operation_edges if by_index[e.producer] == "F.linear"
    }
    x = model.first(INPUTS).detach().requires_grad_()
    cotangent = 2.0 * torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).double()
    for name, function in (("torch.tanh", torch.tanh), ("F.gelu", F.gelu)):
        (share,) = torch.autograd.grad(function(x), x, cotangent)
        assert shares[name] == pytest.approx(share.norm().item(), rel=1e-12)


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_a_checkpointed_part_does_not_break_the_way(use_reentrant):
    class Checkpointed(Traced):
        def forward(self, x):
            x = self.first(x)
            x = checkpoint(lambda y: torch.tanh(self.second(y)), x, use_reentrant=use_reentrant)
            return x * 3.0

    recording = observe(Problem(Checkpointed(), INPUTS))
    assert norms(recording)["Tensor.mul"] == pytest.approx(
        torch.randn(6, 8, generator=torch.Generator().manual_seed(0)).double().norm().item(), rel=1e-6
    )
    assert not [note for note in recording.context.notes if "not observed" in note]


def test_a_gradient_that_is_scaled_for_the_pass_is_recorded_unscaled():
    def tiny(output):
        return output.square().mean() * 1e-20

    small, plain = (
        norms(observe(Problem(seeded_branches(), INPUTS.float(), loss=loss)))
        for loss in (tiny, lambda output: output.square().mean())
    )
    assert small["F.linear"] == pytest.approx(1e-20 * plain["F.linear"], rel=1e-4)


def seeded_branches():
    torch.manual_seed(1)
    return Branches().float()


def test_weights_are_on_no_way():
    class Prepared(Traced):
        def forward(self, x):
            weight = self.first.weight.tanh() * 2.0
            return torch.tanh(self.second(x) @ weight)

    recording = observe(Problem(Prepared(), INPUTS))
    by_index = {o.index: o.name for o in recording.operations}
    read = {by_index[e.producer] for e in recording.operation_edges if by_index[e.operation] == "Tensor.matmul"}
    assert read == {"F.linear"}


def test_cuts_are_noted_with_their_line_and_masks_are_not():
    class Cutting(Traced):
        def forward(self, x):
            x = self.first(x)
            mask = x > 0
            frozen = x.detach()
            with torch.no_grad():
                x_hidden = x * 2.0
            return self.second(x * mask + frozen + x_hidden + torch.zeros_like(x))

    recording = observe(Problem(Cutting(), INPUTS))
    cuts = {o.name: o.line.code for o in recording.operations if o.is_cut and o.line is not None}
    assert cuts == {"Tensor.detach": "frozen = x.detach()", "Tensor.mul": "x_hidden = x * 2.0"}


@pytest.mark.parametrize(
    ("operation", "expected"),
    [
        (lambda x: torch.log(x - 100.0), ["torch.log"]),
        (lambda x: torch.exp(1e3 * x.abs()), ["torch.exp", "F.linear"]),
        (lambda x: F.softmax(torch.full_like(x, -math.inf) + x, -1), ["torch.full_like", "F.softmax"]),
    ],
)
def test_the_operations_that_make_the_first_infinity_and_the_first_nan_are_found(operation, expected):
    class Breaking(Traced):
        def forward(self, x):
            return self.second(operation(self.first(x)))

    recording = observe(Problem(Breaking(), INPUTS))
    culprits = [o for o in recording.operations if o.is_cut and not o.is_finite]
    assert [culprit.name for culprit in culprits] == expected
    first = culprits[0]
    assert first.line is not None
    assert "lambda x:" in first.line.code
    assert recording.calls[first.depth].module == ""
