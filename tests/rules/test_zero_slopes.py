"""HW103 where two layers read the same: a derivative that is zero for ever is told from a part that one batch leaves out."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import ZeroGradient
from tests.rules.conclusions import assert_well_said, findings, the_finding

CLASSES = nn.CrossEntropyLoss()


def judged(model, inputs=None, *, lines=True):
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(64, 16, generator=generator) if inputs is None else inputs
    targets = torch.randint(0, 4, (len(inputs),), generator=generator)
    return the_finding(observe(Problem(model, inputs, targets, CLASSES), lines=lines), ZeroGradient())


class Gated(nn.Module):
    """A layer times a function of another one; both read the same, or one reads twice as much."""

    def __init__(self, function, factor=1):
        super().__init__()
        torch.manual_seed(0)
        self.gate, self.body, self.head = nn.Linear(16, 32), nn.Linear(16, 32), nn.Linear(32, 4)
        self.function, self.factor = function, factor

    def forward(self, x):
        body = torch.tanh(self.body(x if self.factor == 1 else self.factor * x))
        return self.head(body * self.function(self.gate(x)))


WITHOUT_A_SLOPE = {
    "floor": lambda g: torch.floor(5 * torch.sigmoid(g)),
    "sign": torch.sign,
    "round": lambda g: 2 * g.round(),
    "ceil": torch.ceil,
    "a draw": lambda g: torch.bernoulli(torch.sigmoid(g)),
    "a clamp out of its range": lambda g: g.clamp(5, 6),
    "times zero": lambda g: 1 + 0 * g,
    "a softmax of one": lambda g: torch.softmax(g[..., None], -1)[..., 0],
    "a rectifier that is off": lambda g: 1 + torch.relu(g - 100),
    "a plateau": lambda g: F.hardsigmoid(g + 50),
    "written over in place": lambda g: 1 + (2 * g).zero_(),
}


@pytest.mark.parametrize("factor", [1, 2])
@pytest.mark.parametrize("name", WITHOUT_A_SLOPE)
def test_a_function_without_a_slope_is_an_error_whoever_reads_the_same(name, factor):
    finding = judged(Gated(WITHOUT_A_SLOPE[name], factor))
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("gate",))
    assert "masked out" not in finding.cause
    assert_well_said([finding])


class Choice(nn.Module):
    """Three experts that read the same, of which `choose` leaves out the last for all samples."""

    def __init__(self, choose):
        super().__init__()
        torch.manual_seed(0)
        self.experts = nn.ModuleDict({name: nn.Linear(16, 16) for name in ("a", "b", "c")})
        self.head, self.choose = nn.Linear(16, 4), choose

    def forward(self, x):
        return self.head(self.choose(x, *(torch.tanh(expert(x)) for expert in self.experts.values())))


def _gates(x):
    """Of each sample: one of the first two, by its first feature."""
    return torch.stack([x[:, 0] > 0, x[:, 0] <= 0, torch.zeros(len(x), dtype=torch.bool)], 1).float()


LEAVING_ONE_OUT = {
    "a mask": lambda x, *experts: sum(_gates(x)[:, i : i + 1] * expert for i, expert in enumerate(experts)),
    "a mask of all": lambda x, *experts: (_gates(x)[..., None] * torch.stack(experts, 1)).sum(1),
    "a product of matrices": lambda x, *experts: torch.einsum("be,bed->bd", _gates(x), torch.stack(experts, 1)),
    "an index": lambda x, *experts: torch.stack(experts)[_gates(x).argmax(1), torch.arange(len(x))],
    "a condition": lambda x, a, b, c: torch.where(x[:, :1] > 9.0, c, a + b),
    "masked entries": lambda x, a, b, c: a + b + c.masked_fill(x[:, :1] < 9.0, 0.0),
    "a larger one": lambda x, a, b, c: torch.maximum(a + b, c - 9.0),
    "the largest": lambda x, a, b, c: torch.stack([a, b, c - 9.0]).max(0).values,
}


@pytest.mark.parametrize("name", LEAVING_ONE_OUT)
def test_what_this_batch_leaves_out_is_only_worth_knowing(name):
    finding = judged(Choice(LEAVING_ONE_OUT[name]))
    assert (finding.severity, finding.modules) == (Severity.INFO, ("experts.c",))
    assert "masked out" in finding.cause


class Attention(nn.Module):
    """Over one key, scaled or not: query and key get nothing, and the value all."""

    def __init__(self, score):
        super().__init__()
        torch.manual_seed(0)
        self.query, self.key, self.value, self.head = (nn.Linear(16, n) for n in (16, 16, 16, 4))
        self.score = score

    def forward(self, x):
        x = x[:, None]
        scores = self.score(self.query(x), self.key(x))
        return self.head(torch.softmax(scores, -1) @ self.value(x)).squeeze(1)


@pytest.mark.parametrize(
    "score", [lambda q, k: q @ k.mT / 4, lambda q, k: torch.einsum("bqd,bkd->bqk", q, k), lambda q, k: q.bmm(k.mT) + 1]
)
def test_an_attention_over_one_key_is_only_worth_knowing(score):
    finding = judged(Attention(score))
    assert (finding.severity, set(finding.modules)) == (Severity.INFO, {"query", "key"})


def test_an_attention_whose_softmax_runs_along_the_wrong_dimension_is_a_fault():
    class WrongDimension(Attention):
        def forward(self, x):
            x = x[:, :8].reshape(len(x), 4, 2).repeat(1, 1, 8)  # four positions
            scores = torch.einsum("bqd,bqd->bq", self.query(x), self.key(x))
            return self.head(torch.softmax(scores[..., None], -1) * self.value(x)).mean(1)

    finding = judged(WrongDimension(None))
    assert finding.severity is Severity.ERROR
    assert {"query", "key"} <= set(finding.modules)


def test_a_block_that_is_dropped_by_a_number_is_only_worth_knowing():
    class Blocks(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.blocks, self.head = nn.ModuleList(nn.Linear(16, 16) for _ in range(3)), nn.Linear(16, 4)

        def forward(self, x):
            for block, keep in zip(self.blocks, (1.0, 0.0, 1.0), strict=True):
                x = x + keep * torch.tanh(block(x))
            return self.head(x)

    finding = judged(Blocks())
    assert (finding.severity, finding.modules) == (Severity.INFO, ("blocks.1",))


class WithMargin(nn.Module):
    """Returns its loss, which asks something of a second head besides: `penalty` of it."""

    def __init__(self, penalty):
        super().__init__()
        torch.manual_seed(0)
        self.margin, self.head, self.penalty = nn.Linear(16, 4), nn.Linear(16, 4), penalty

    def forward(self, x):
        penalty = self.penalty(self.margin(x)).mean()
        return penalty + F.cross_entropy(self.head(x), torch.arange(len(x)) % 4)


@pytest.mark.parametrize(
    ("penalty", "severity"),
    [
        (lambda m: torch.relu(m - 9.0), Severity.INFO),
        (lambda m: (m - 9.0).clamp(min=0.0).square(), Severity.INFO),
        (torch.round, Severity.ERROR),
    ],
)
def test_a_margin_of_the_loss_that_is_met_is_told_from_a_rounding_in_it(penalty, severity):
    inputs = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(WithMargin(penalty), inputs)), ZeroGradient())
    assert (finding.severity, finding.modules) == (severity, ("margin",))


def test_without_lines_nobody_knows_what_stands_between_and_the_benefit_of_the_doubt_stays():
    assert judged(Gated(torch.sign), lines=False).severity is Severity.INFO


def test_a_zero_parameter_that_has_nothing_to_do_with_it_is_not_blamed():
    """A scale and a shift around a normalisation over one column: the shift is zero, and gets a gradient."""

    class Scored(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(1)
            self.scorer = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 1))
            self.scale, self.shift = nn.Parameter(torch.ones(1)), nn.Parameter(torch.zeros(1))

        def forward(self, x):
            score = self.scorer(x)
            score = (score - score.mean(1, keepdim=True)) / (score.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
            return self.scale * score + self.shift

    targets = (torch.arange(64) % 3 == 0).float()[:, None]
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(Scored(), x, targets, nn.BCEWithLogitsLoss()), lines=True), ZeroGradient())
    assert finding.severity is Severity.ERROR
    assert "shift" not in finding.cause
    assert_well_said([finding])


class Policy(nn.Module):
    """A mean and a log deviation, which is clamped; with its bounds swapped it is a constant."""

    def __init__(self, low, high, *, returns_loss=False):
        super().__init__()
        torch.manual_seed(0)
        self.body, self.mean, self.log_std = nn.Linear(16, 32), nn.Linear(32, 4), nn.Linear(32, 4)
        self.bounds, self.returns_loss = (low, high), returns_loss

    def forward(self, x):
        h = torch.tanh(self.body(x))
        mean, log_std = self.mean(h), self.log_std(h).clamp(*self.bounds)  # swapped
        return _gaussian_loss((mean, log_std)) if self.returns_loss else (mean, log_std)


def _gaussian_loss(output):
    mean, log_std = output
    return (0.5 * ((mean - 1.0) / log_std.exp()) ** 2 + log_std).mean()


def test_a_clamp_of_an_output_whose_bounds_are_swapped_is_an_error():
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(Policy(2.0, -5.0), x, loss=_gaussian_loss), lines=True), ZeroGradient())
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("log_std",))
    assert "swapped" in finding.lines[0].code
    assert findings(observe(Problem(Policy(-5.0, 2.0), x, loss=_gaussian_loss), lines=True), [ZeroGradient()]) == []


class WithAMargin(Policy):
    """A loss in the model's own forward, a part of which is a margin that is met; or what is rectified goes through an exponential."""

    def __init__(self, after):
        super().__init__(-5.0, 2.0)
        self.after = after

    def forward(self, x):
        h = torch.tanh(self.body(x))
        return self.mean(h).square().mean() + self.after(F.relu(self.log_std(h) - 100.0))


@pytest.mark.parametrize(
    ("after", "severity"),
    [
        (lambda m: m.mean(), Severity.INFO),
        (lambda m: (2.0 * m.square()).sum(1).mean(), Severity.INFO),
        (lambda m: m.exp().mean(), Severity.ERROR),
    ],
)
def test_in_a_model_that_returns_its_loss_a_margin_may_be_met(after, severity):
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(WithAMargin(after), x), lines=True), ZeroGradient())
    assert (finding.severity, finding.modules) == (severity, ("log_std",))


def test_a_swapped_clamp_is_an_error_also_in_a_model_that_returns_its_loss():
    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(Policy(2.0, -5.0, returns_loss=True), x), lines=True), ZeroGradient())
    assert (finding.severity, finding.modules) == (Severity.ERROR, ("log_std",))


@pytest.mark.parametrize("reduced", [lambda m: m, torch.mean])
def test_a_margin_for_each_sample_beside_the_output_may_be_met(reduced):
    """A ranking loss that the model computes itself, not averaged yet."""

    class Ranked(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.body, self.place, self.head = nn.Linear(16, 32), nn.Linear(32, 8), nn.Linear(32, 4)

        def forward(self, x):
            h = torch.tanh(self.body(x))
            place = self.place(h)
            distances = (place[::2] - place[1::2]).square().sum(1)
            return self.head(h), reduced(torch.relu(distances - 100.0))

    x = torch.randn(64, 16, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(64) % 4
    problem = Problem(Ranked(), x, targets, lambda output, t: F.cross_entropy(output[0], t) + output[1].mean())
    finding = the_finding(observe(problem, lines=True), ZeroGradient())
    assert (finding.severity, finding.modules) == (Severity.INFO, ("place",))
