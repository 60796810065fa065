"""Recurrent networks without a module for the cell: which products are time steps, and what their gradients are."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis import time_steps
from headwater.analysis.functional_time_loops import functional_time_loops

STEPS, FEATURES, HIDDEN = 9, 3, 6


class Functional(nn.Module):
    """A loop in the model's own forward; `step(parameters, x_t, h)` is one step of it."""

    def __init__(self, step, *, truncate_every=0):
        super().__init__()
        generator = torch.Generator().manual_seed(0)

        def parameter(*shape):
            return nn.Parameter(0.5 * torch.randn(*shape, generator=generator, dtype=torch.float64))

        self.read, self.keep = parameter(FEATURES, HIDDEN), parameter(HIDDEN, HIDDEN)
        self.joined = parameter(FEATURES + HIDDEN, HIDDEN)
        self.gate_read, self.gate_keep = parameter(FEATURES, HIDDEN), parameter(HIDDEN, HIDDEN)
        self.step, self.truncate_every = step, truncate_every

    def forward(self, x):
        h = x.new_zeros(len(x), HIDDEN)
        for t, x_t in enumerate(x.unbind(1)):
            if self.truncate_every and t % self.truncate_every == 0:
                h = h.detach()
            h = self.step(self, x_t, h)
        return h


def _simple(own, x_t, h):
    return torch.tanh(x_t @ own.read + h @ own.keep)


def _linear(own, x_t, h):
    return torch.tanh(nn.functional.linear(x_t, own.read.T) + nn.functional.linear(h, own.keep.T))


def _joined(own, x_t, h):
    return torch.tanh(torch.cat([x_t, h], dim=1) @ own.joined)


def _gated(own, x_t, h):
    gate = torch.sigmoid(x_t @ own.gate_read + h @ own.gate_keep)
    return gate * h + (1 - gate) * torch.tanh(x_t @ own.read + h @ own.keep)


class TiedDepth(nn.Module):
    """One matrix for every layer."""

    def __init__(self, layer):
        super().__init__()
        self.weight = nn.Parameter(0.5 * torch.randn(HIDDEN, HIDDEN, dtype=torch.float64))
        self.inject = nn.Parameter(torch.randn(HIDDEN, HIDDEN, dtype=torch.float64))
        self.layer = layer

    def forward(self, x):
        injected, h = x @ self.inject, x
        for _ in range(STEPS):
            h = self.layer(self.weight, injected, h)
        return h


def _square(output):
    return output.square().mean()


def _data(features=FEATURES, *, depth=False):
    generator = torch.Generator().manual_seed(1)
    shape = (4, HIDDEN) if depth else (4, STEPS, features)
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _recording(model, x):
    return hw.diagnose(model, x, loss=_square, samples=False).recording


@pytest.mark.parametrize(
    ("step", "parameters", "has_gates"),
    [
        (_simple, ["keep"], False),
        (_linear, ["keep"], False),
        (_joined, ["joined"], False),
        (_gated, ["keep", "gate_keep"], True),
    ],
)
def test_the_products_with_the_state_are_the_time_steps(step, parameters, has_gates):
    loops = list(functional_time_loops(_recording(Functional(step), _data())))
    assert sorted(loop.parameter for loop in loops) == sorted(parameters)
    assert {(loop.module, len(loop.products), loop.has_gates) for loop in loops} == {("", STEPS, has_gates)}


def test_where_the_input_is_read_before_the_loop_its_parts_are_new_at_each_step():
    class ReadsBefore(Functional):
        def forward(self, x):
            read, h = x @ self.read, x.new_zeros(len(x), HIDDEN)
            for t in range(x.shape[1]):
                h = torch.tanh(read[:, t] + h @ self.keep)
            return h

    (loop,) = functional_time_loops(_recording(ReadsBefore(_simple), _data()))
    assert (loop.parameter, len(loop.products)) == ("keep", STEPS)


@pytest.mark.parametrize(
    "layer",
    [
        lambda weight, _, h: torch.tanh(h @ weight),
        lambda weight, _, h: h + torch.relu(h @ weight),
        lambda weight, injected, h: torch.tanh(h @ weight + injected),
        lambda weight, injected, h: h + torch.tanh(torch.nn.functional.layer_norm(h, (HIDDEN,)) @ weight) * injected,
    ],
    ids=["plain", "shortcut", "injected input", "pre-norm"],
)
def test_tied_depth_is_no_time(layer):
    assert list(functional_time_loops(_recording(TiedDepth(layer), _data(depth=True)))) == []


def test_the_gradients_are_those_of_autograd():
    model, x = Functional(_simple), _data()
    (steps,) = time_steps(_recording(model, x))
    kept, h = [], x.new_zeros(len(x), HIDDEN)
    for x_t in x.unbind(1):
        product = h @ model.keep
        product.retain_grad()
        kept.append(product)
        h = torch.tanh(x_t @ model.read + product)
    _square(h).backward()
    assert steps.norms == pytest.approx([float(product.grad.norm()) for product in kept], rel=1e-6)
    assert str(steps) == f"{STEPS} products, one per time step, with 'keep' of the model (Functional)"


@pytest.mark.parametrize("scale", [0.5, 1.0, 1.5])
def test_a_scaled_orthogonal_matrix_multiplies_the_gradient_by_its_scale(scale):
    model = Functional(lambda own, x_t, h: x_t @ own.read + h @ own.keep)
    with torch.no_grad():
        model.keep.copy_(scale * torch.linalg.qr(model.keep)[0])
    (steps,) = time_steps(_recording(model, _data()))
    assert steps.factor_per_step == pytest.approx(scale, rel=1e-6)


def test_a_state_that_is_detached_begins_anew():
    model, x = Functional(_simple, truncate_every=8), torch.cat([_data(), _data()], dim=1)[:, :15]
    assert [len(loop.products) for loop in functional_time_loops(_recording(model, x))] == [15 - 8]


@pytest.mark.parametrize(("scale", "code"), [(0.3, "HW101"), (3.0, "HW102")])
def test_a_loop_that_loses_or_multiplies_the_gradient_is_found_at_its_line(scale, code):
    model = Functional(lambda own, x_t, h: x_t @ own.read + h @ own.keep)  # the products
    with torch.no_grad():
        model.keep.copy_(scale * torch.linalg.qr(model.keep)[0])
    x = torch.randn(8, 40, FEATURES, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = {finding.code: finding for finding in hw.diagnose(model, x, loss=_square, samples=False).findings}
    assert found[code].evidence["axis"] == "time"
    assert found[code].evidence["factor_per_step"] == pytest.approx(scale, rel=1e-6)
    assert any("# the products" in line.code for line in found[code].lines)
