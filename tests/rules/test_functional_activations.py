"""Activations that are called as functions are judged as modules are: in any forward, with their line."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.analysis.functional_activations import functional_activations
from headwater.capture import Problem, observe, record
from headwater.capture.softmax_choices import _dealt
from headwater.findings import NotApplicable, Severity
from headwater.rules import DeadUnits, SaturatedActivation
from tests.rules.conclusions import assert_well_said, the_finding

RECTIFIERS = {
    "F.relu": F.relu,
    "torch.relu": torch.relu,
    "Tensor.relu": lambda x: x.relu(),
    "relu_": lambda x: x.relu_(),
    "F.relu inplace": lambda x: F.relu(x, inplace=True),
    "F.relu6": F.relu6,
    "clamp": lambda x: x.clamp(min=0),
    "clamp_min": lambda x: torch.clamp_min(x, 0.0),
    "clip": lambda x: torch.clip(x, 0, None),
    "threshold": lambda x: F.threshold(x, 0.0, 0.0),
    "maximum": lambda x: torch.maximum(x, torch.zeros(())),
    "maximum of zeros like it": lambda x: torch.maximum(x, torch.zeros_like(x)),
    "zero first": lambda x: torch.maximum(torch.zeros(()), x),
    "max": lambda x: torch.max(x, torch.zeros(1)),
    "Tensor.maximum": lambda x: x.maximum(x.new_zeros(16)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where of zeros": lambda x: torch.where(x >= torch.zeros(()), x, torch.zeros_like(x)),
    "where not": lambda x: torch.where(x < 0, 0.0, x),
    "Tensor.where": lambda x: x.where(x > 0, torch.zeros(())),
    "where with names": lambda x: torch.where(condition=x > 0, input=x, other=torch.zeros(())),
    "masked_fill with names": lambda x: x.masked_fill(mask=x < 0, value=0.0),
    "product": lambda x: x * (x > 0),
    "product with a number": lambda x: (x > 0).float() * x,
    "product in place": lambda x: x.mul_(~(x <= 0)),
    "masked_fill": lambda x: x.masked_fill(x < 0, 0.0),
}
SQUASHING = {
    "torch.sigmoid": torch.sigmoid,
    "F.sigmoid": F.sigmoid,
    "Tensor.sigmoid_": lambda x: x.sigmoid_(),
    "special": torch.special.expit,
    "tanh": lambda x: x.tanh(),
    "softsign": F.softsign,
    "hardtanh": F.hardtanh,
    "hardsigmoid": F.hardsigmoid,
    "clamp": lambda x: x.clamp(-1, 1),
}


class Net(nn.Module):
    """Two layers, and between them a function."""

    def __init__(self, function, *, num_units=16):
        super().__init__()
        self.first, self.second = nn.Linear(8, num_units), nn.Linear(num_units, 3)
        self.function = function

    def forward(self, x):
        x = self.first(x)
        x = self.function(x)  # the line
        return self.second(x)


def seen(model, scale=1.0, num_samples=64, **options):
    inputs = scale * torch.randn(num_samples, 8, generator=torch.Generator().manual_seed(0))
    return observe(Problem(model, inputs, loss=lambda output: output.square().mean()), **options)


def with_dead_units(function, num_dead):
    torch.manual_seed(0)
    model = Net(function)
    with torch.no_grad():
        model.first.bias[:num_dead] = -50.0
    return model


@pytest.mark.parametrize("name", RECTIFIERS)
@pytest.mark.parametrize("num_dead", [5, 16])
def test_dead_units_of_a_function_are_counted(name, num_dead):
    finding = the_finding(seen(with_dead_units(RECTIFIERS[name], num_dead)), DeadUnits())
    assert (finding.evidence["num_dead"], finding.evidence["num_units"]) == (num_dead, 16)
    assert finding.severity is (Severity.ERROR if num_dead == 16 else Severity.WARNING)
    assert finding.modules == ("",)
    assert_well_said([finding])


def test_the_line_is_that_of_the_call():
    finding = the_finding(seen(with_dead_units(F.relu, 5)), DeadUnits())
    assert [line.code for line in finding.lines] == ["x = self.function(x)  # the line"]


NO_RECTIFIERS = {
    "the mask of another tensor": lambda x: torch.where(x.flip(0) > 0, x, 0.0),
    "another threshold": lambda x: x * (x > -100.0),
    "a leak": lambda x: torch.where(x > 0, x, 0.1 * x),
    "what is negative": lambda x: x * (x < 0),
    "the mask of what was there before": lambda x: (x > 0) * x.add_(60.0),
    "the larger of two": lambda x: torch.maximum(x, x.flip(1)),
    "not of zero": lambda x: torch.maximum(x, torch.full((), -100.0)),
    "the largest": lambda x: x + x.max(1, keepdim=True).values,
    "a constant": lambda x: torch.where(x > 0, 1.0, x),
    "the mask of a copy that was made a number": lambda x: x.flip(0) * (x > 0).float(),
}


@pytest.mark.parametrize("name", NO_RECTIFIERS)
def test_what_only_looks_like_a_rectifier_is_none(name):
    verdict = DeadUnits().check(seen(with_dead_units(NO_RECTIFIERS[name], 5)))
    assert isinstance(verdict, NotApplicable)
    assert "that Headwater knows" in verdict.reason


@pytest.mark.parametrize("name", RECTIFIERS)
def test_living_units_are_no_alarm(name):
    assert DeadUnits().check(seen(with_dead_units(RECTIFIERS[name], 0))) == []


def test_the_extremes_are_those_of_the_input():
    model = with_dead_units(F.relu, 5)
    inputs = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    expected = model.first(inputs).detach().double()
    (found,) = functional_activations(seen(model))
    assert found.maximum.tolist() == expected.amax(0).tolist()
    assert found.minimum.tolist() == expected.amin(0).tolist()
    assert found.num_samples == 64
    assert found.output_rms == pytest.approx(float(expected.clamp(min=0).square().mean().sqrt()), rel=1e-6)


def test_channels_of_a_one_dimensional_convolution_are_units():
    class Convolutions(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv1d(3, 8, 3, padding=1), nn.Conv1d(8, 2, 1)

        def forward(self, x):
            return self.second(F.relu(self.first(x) + 0.0))  # a sum stands between the convolution and the rectifier

    model = Convolutions()
    with torch.no_grad():
        model.first.bias[:2] = -50.0
    finding = the_finding(observe(Problem(model, torch.randn(8, 3, 20))), DeadUnits())
    assert (finding.evidence["num_dead"], finding.evidence["num_units"]) == (2, 8)


def test_a_function_inside_of_torch_code_is_seen_at_the_module_that_calls_it():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 2, enable_nested_tensor=False)
    with torch.no_grad():
        model.layers[1].linear1.bias[:7] = -50.0
    finding = the_finding(observe(Problem(model, torch.randn(8, 6, 8))), DeadUnits())
    assert (finding.modules, finding.evidence["num_dead"]) == (("layers.1",), 7)


def test_a_module_is_not_judged_twice():
    recording = seen(Net(nn.ReLU()))
    assert functional_activations(recording) == []
    assert len(recording.units) == 1


def test_a_margin_that_is_met_is_no_dead_unit():
    class Margin(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Linear(8, 4)

        def forward(self, x):
            distances = torch.cdist(self.embed(x), self.embed(x.flip(0)))
            return F.relu(distances - 100.0).mean() + distances.mean()

    assert isinstance(DeadUnits().check(observe(Problem(Margin(), torch.randn(64, 8)))), NotApplicable)


@pytest.mark.parametrize("name", SQUASHING)
def test_a_saturated_function_is_found_with_its_line(name):
    torch.manual_seed(0)
    finding = the_finding(seen(Net(SQUASHING[name]), scale=1e4), SaturatedActivation())
    assert finding.modules == ("",)
    (line,) = finding.lines
    assert "self.function(x)" in line.code or "lambda x" in line.code  # a lambda is the user's line, too
    assert_well_said([finding])


@pytest.mark.parametrize("name", SQUASHING)
def test_one_that_is_not_saturated_is_no_alarm(name):
    torch.manual_seed(0)
    assert SaturatedActivation().check(seen(Net(SQUASHING[name]))) == []


@pytest.mark.parametrize(
    ("function", "derivative"),
    [
        (torch.sigmoid, lambda x: 4.0 * torch.sigmoid(x) * (1.0 - torch.sigmoid(x))),
        (torch.tanh, lambda x: 1.0 - torch.tanh(x) ** 2),
        (F.softsign, lambda x: 1.0 / (1.0 + x.abs()) ** 2),
        (F.hardtanh, lambda x: (x.abs() < 1.0).double()),
    ],
)
def test_the_mean_derivative_is_that_of_calculus(function, derivative):
    torch.manual_seed(0)
    model = Net(function)
    inputs = 3.0 * torch.randn(64, 8, generator=torch.Generator().manual_seed(0))
    x = model.first(inputs).detach().double()
    (found,) = functional_activations(seen(model, scale=3.0))
    assert found.mean_derivative == pytest.approx(float(derivative(x).mean()), rel=1e-5)
    assert found.input_rms == pytest.approx(float(x.square().mean().sqrt()), rel=1e-6)


def test_an_output_may_be_certain():
    class Certain(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 3)

        def forward(self, x):
            return torch.sigmoid(self.layer(x)).clamp(1e-7, 1.0 - 1e-7)

    verdict = SaturatedActivation().check(seen(Certain(), scale=1e4))
    assert [finding.severity for finding in verdict] == [Severity.INFO]


class Attention(nn.Module):
    """One head, whose scores can be scaled and masked."""

    def __init__(self, scale, *, masked=0):
        super().__init__()
        self.query, self.key, self.value = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.scale, self.masked = scale, masked

    def forward(self, x):
        scores = self.scale * self.query(x) @ self.key(x).mT
        if self.masked:
            scores = scores.index_fill(-1, torch.arange(self.masked), -1e9)
        return F.softmax(scores, dim=-1) @ self.value(x)


@pytest.mark.parametrize(
    ("scale", "masked", "is_saturated"), [(0.3, 0, False), (1e3, 0, True), (0.3, 4, False), (0.3, 5, False)]
)
def test_a_softmax_is_saturated_where_its_probabilities_are_zero_and_one(scale, masked, is_saturated):
    torch.manual_seed(0)  # with five of six keys masked each row has one key left: certain by right
    recording = observe(Problem(Attention(scale, masked=masked), torch.randn(8, 6, 8)))
    verdict = SaturatedActivation().check(recording)
    assert bool(verdict) is is_saturated or isinstance(verdict, NotApplicable)
    assert isinstance(verdict, NotApplicable) is (masked == 5)


def test_the_derivative_of_a_softmax_is_the_trace_of_its_jacobian():
    torch.manual_seed(0)
    model = Attention(1.0)
    inputs = torch.randn(4, 6, 8, generator=torch.Generator().manual_seed(0))
    probabilities = F.softmax(model.query(inputs) @ model.key(inputs).mT, -1).detach().double().reshape(-1, 6)
    traces = [float(torch.trace(torch.diag(p) - torch.outer(p, p))) / (1.0 - 1.0 / 6.0) for p in probabilities]
    (found,) = functional_activations(observe(Problem(model, inputs)))
    assert found.mean_derivative == pytest.approx(sum(traces) / len(traces), rel=1e-5)


def test_without_lines_functions_are_not_looked_at_and_it_says_so():
    verdict = DeadUnits().check(seen(with_dead_units(F.relu, 5), lines=False))
    assert isinstance(verdict, NotApplicable)
    assert "functions" in verdict.reason


def test_two_of_a_name_in_one_forward_are_told_apart():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3)
            with torch.no_grad():
                self.second.bias[:4] = -50.0

        def forward(self, x):
            x = F.relu(self.first(x))
            x = F.relu(self.second(x))  # second
            return self.third(x)

    finding = the_finding(seen(Twice()), DeadUnits())
    assert [line.code for line in finding.lines] == ["x = F.relu(self.second(x))  # second"]


@pytest.mark.parametrize("function", [F.relu, torch.sigmoid, lambda x: x.relu_(), lambda x: x.softmax(-1)])
def test_looking_at_functions_leaves_no_trace(function):
    torch.manual_seed(0)
    model = Net(function)
    inputs = torch.randn(64, 8)
    model(inputs).square().mean().backward()
    gradients = [parameter.grad.clone() for parameter in model.parameters()]
    model.zero_grad()
    with record(model) as recorder, recorder.trace_lines():
        model(inputs).square().mean().backward()
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(model.parameters(), gradients, strict=True))


class Pointer(nn.Module):
    """Finds the key that is like the query, and returns its value."""

    def __init__(self, scale=0.25):
        super().__init__()
        self.key, self.query, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(4, 4)
        self.scale = scale

    def forward(self, keys, values, query):
        scores = self.scale * torch.einsum("bid,bd->bi", self.key(keys), self.query(query))
        return torch.einsum("bi,bid->bd", torch.softmax(scores, -1), self.value(values))


def pointing(seed=0):
    """A batch for a Pointer: inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    keys, values = torch.randn(64, 6, 16, generator=generator), torch.randn(64, 6, 4, generator=generator)
    row, asked = torch.arange(64), torch.randint(0, 6, (64,), generator=generator)
    return (keys, values, keys[row, asked]), values[row, asked]


def taught_to_point(model, num_steps):
    """Trains the model; returns what it was trained on."""
    inputs, targets = pointing()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for _ in range(num_steps):
        optimizer.zero_grad()
        F.mse_loss(model(*inputs), targets).backward()
        optimizer.step()
    return inputs, targets


@pytest.mark.parametrize("num_steps", [180, 250])  # loss 0.006 and 4e-5
def test_a_softmax_that_has_learned_to_point_is_only_worth_knowing(num_steps):
    torch.manual_seed(0)
    model = Pointer()
    inputs, targets = taught_to_point(model, num_steps)
    finding = the_finding(observe(Problem(model, inputs, targets, nn.MSELoss())), SaturatedActivation())
    assert finding.severity is Severity.INFO
    assert float(finding.evidence["loss_with_its_choice"]) < 0.1 * float(finding.evidence["loss_without_a_choice"])
    assert_well_said([finding])
    # Without a loss nobody knows what it shall point at.
    blind = the_finding(observe(Problem(model, inputs)), SaturatedActivation())
    assert blind.severity is Severity.WARNING


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fault", ["no 1/sqrt(d)", "huge inputs"])
def test_a_softmax_that_is_sharp_at_initialisation_is_a_warning_whatever_the_task(fault, seed):
    torch.manual_seed(seed)
    model, (inputs, targets) = Pointer(100.0 if fault == "no 1/sqrt(d)" else 0.25), pointing(seed)
    if fault == "huge inputs":
        keys, values, query = inputs
        inputs = (30.0 * keys, values, 30.0 * query)
    finding = the_finding(observe(Problem(model, inputs, targets, nn.MSELoss())), SaturatedActivation())
    assert finding.severity is Severity.WARNING


def test_the_losses_of_other_choices_are_those_of_a_model_that_chooses_so():
    torch.manual_seed(0)
    model, (inputs, targets) = Pointer(100.0), pointing()
    (found,) = functional_activations(observe(Problem(model, inputs, targets, nn.MSELoss())))
    own, without, by_lot, variance, by_another_rule = found.choice_losses
    assert own == pytest.approx(F.mse_loss(model(*inputs), targets).item(), rel=1e-5)
    values = model.value(inputs[1]).detach()
    assert without == pytest.approx(F.mse_loss(values.mean(1), targets).item(), rel=1e-5)
    # A certain choice by lot is one of the six values: on average over them, and not far from that in any lot.
    expected = (values - targets[:, None]).square().mean().item()
    assert by_lot == pytest.approx(expected, abs=5.0 * variance**0.5)
    # And where all rows choose the entry that stands elsewhere, one of the other five.
    assert 0.5 * expected < by_another_rule < expected


class SharpRouter(nn.Module):
    """Experts behind a router that is sharp by accident: samples that are alike choose the same expert."""

    def __init__(self, num_experts=6):
        super().__init__()
        self.router, self.head = nn.Linear(8, num_experts), nn.Linear(16, 4)
        self.experts = nn.ModuleList(nn.Linear(8, 16) for _ in range(num_experts))

    def forward(self, x):
        chosen = torch.softmax(1e3 * self.router(x), -1)
        return self.head((chosen[..., None] * torch.stack([expert(x) for expert in self.experts], 1)).sum(1))


def test_a_router_that_is_sharp_by_accident_is_not_taken_for_a_learned_one():
    """Its choice is exchangeable with that of the same router for other experts; one in 17 would be better than 16 of them."""
    severities = []
    for seed in range(20):
        torch.manual_seed(seed)
        centres = torch.randn(4, 8)
        targets = torch.arange(256) % 4
        problem = Problem(SharpRouter(), centres[targets] + 0.3 * torch.randn(256, 8), targets, nn.CrossEntropyLoss())
        severities.append(the_finding(observe(problem, samples=0), SaturatedActivation()).severity)
    assert severities.count(Severity.WARNING) >= 17


def test_lots_are_dealt_among_the_entries_that_are_not_masked():
    generator = torch.Generator().manual_seed(0)
    is_open = torch.rand(50, 7, generator=generator) < 0.6
    is_open[:, 0] = True
    probabilities = torch.rand(50, 7, generator=generator).masked_fill(~is_open, 0.0)
    for dim in (0, 1):
        given = (probabilities, is_open, -1) if dim else (probabilities.T, is_open.T, 0)
        dealt = _dealt(*given, torch.Generator().manual_seed(1))
        dealt = dealt if dim else dealt.T
        assert not dealt[~is_open].any()
        assert torch.equal(dealt.sort(1).values, probabilities.sort(1).values)
        assert not torch.equal(dealt, probabilities)


def test_trying_other_choices_leaves_no_trace():
    class Forgetful(Pointer):
        def forward(self, keys, values, query):
            self.num_calls = getattr(self, "num_calls", 0) + 1
            return super().forward(keys, F.dropout(values, 0.1), query)

    torch.manual_seed(0)
    model, (inputs, targets) = Forgetful(100.0), pointing()
    before = torch.get_rng_state()
    recording = observe(Problem(model, inputs, targets, nn.MSELoss()))
    assert recording.series("loss_with_choices")
    assert torch.equal(torch.get_rng_state(), before)
    assert not hasattr(model, "num_calls")


def test_of_two_softmaxes_only_the_one_that_has_learned_is_excused():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.pointer, self.gate, self.mixed = Pointer(), nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, keys, values, query):
            found = self.pointer(keys, values, query)
            return found + 0.01 * self.mixed(torch.softmax(1e3 * self.gate(found), -1))

    torch.manual_seed(0)
    model, (inputs, targets) = Two(), pointing()
    optimizer = torch.optim.Adam(model.pointer.parameters(), lr=1e-2)
    for _ in range(250):
        optimizer.zero_grad()
        F.mse_loss(model.pointer(*inputs), targets).backward()
        optimizer.step()
    verdict = SaturatedActivation().check(observe(Problem(model, inputs, targets, nn.MSELoss())))
    assert {(finding.severity, finding.modules) for finding in verdict} == {
        (Severity.INFO, ("pointer",)),
        (Severity.WARNING, ("",)),
    }
