"""HW202 inside of fused attention: what is computed there once more is what torch computes."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from headwater.analysis.functional_activations import functional_activations
from headwater.capture import Problem, observe
from headwater.capture.fused_attention import fused_arguments, fused_attention
from headwater.capture.softmax_calls import open_entries
from headwater.findings import Severity
from headwater.rules import SaturatedActivation
from tests.rules.conclusions import alarms, assert_well_said, findings, the_finding
from tests.rules.test_functional_activations import taught_to_point

ATTEND = F.scaled_dot_product_attention
FORWARD = F.multi_head_attention_forward


def _draw(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def _kept(probabilities, _is_open, _dim):
    return probabilities


def _again(function, args, kwargs):
    given = fused_arguments(function, args, kwargs)
    assert given is not None
    return fused_attention(given).with_other_choice(_kept, open_entries)


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"scale": 3.0},
        {"is_causal": True},
        {"attn_mask": _draw(5, 7) > 0.0},
        {"attn_mask": _draw(2, 1, 5, 7)},
        {"attn_mask": _draw(2, 4, 5, 7) > -1.0},
        {"attn_mask": torch.arange(5)[:, None].expand(5, 7) < 3},
    ],
)
def test_the_same_attention_comes_out(kwargs):
    args = (_draw(2, 4, 5, 8), _draw(2, 4, 7, 8, seed=1), _draw(2, 4, 7, 6, seed=2))
    torch.testing.assert_close(_again(ATTEND, args, kwargs), ATTEND(*args, **kwargs))


@pytest.mark.parametrize("mask", [_draw(5, 5) > -1.0, _draw(2, 1, 5, 5)])
def test_a_mask_beside_the_causal_one_counts_too(mask):
    args = [_draw(2, 4, 5, 8, seed=seed) for seed in range(3)]
    kwargs = {"attn_mask": mask, "is_causal": True}
    try:
        expected = ATTEND(*args, **kwargs)
    except RuntimeError:
        pytest.skip("this torch refuses both")
    torch.testing.assert_close(_again(ATTEND, args, kwargs), expected)


def test_the_same_comes_out_for_queries_that_share_keys():
    args = (_draw(2, 4, 5, 8), _draw(2, 2, 5, 8, seed=1), _draw(2, 2, 5, 8, seed=2))
    torch.testing.assert_close(_again(ATTEND, args, {"enable_gqa": True}), ATTEND(*args, enable_gqa=True))


def _arguments_of(module, *args, **kwargs):
    """What nn.MultiheadAttention gives to the function."""
    caught = []

    class Catch(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if func is FORWARD:
                caught.append((args, kwargs or {}))
            return func(*args, **(kwargs or {}))

    with Catch():
        result = module(*args, **kwargs)
    return *caught[0], result


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("make", [{}, {"kdim": 6, "vdim": 5}, {"bias": False}, {"batch_first": True}])
@pytest.mark.parametrize("masks", ["none", "causal", "padding", "both", "each head"])
def test_the_same_multi_head_attention_comes_out(make, masks, need_weights):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2, **make).double()
    shape = (3, 5) if make.get("batch_first") else (5, 3)
    query, key, value = (
        _draw(*shape, 8),
        _draw(*shape, make.get("kdim", 8), seed=1),
        _draw(*shape, make.get("vdim", 8), seed=2),
    )
    kwargs = {"need_weights": need_weights, "average_attn_weights": masks != "both"}
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    if masks in ("causal", "both"):
        kwargs["attn_mask"] = causal
    if masks in ("padding", "both"):
        kwargs["key_padding_mask"] = torch.arange(5)[None] >= torch.tensor([5, 3, 4])[:, None]
    if masks == "each head":
        kwargs["attn_mask"] = torch.where(causal, -torch.inf, 0.0).double().expand(6, 5, 5)
    args, given, _ = _arguments_of(module, query, key, value, **kwargs)
    output, weights = _again(FORWARD, args, given)
    expected, expected_weights = FORWARD(*args, **given)
    torch.testing.assert_close(output, expected)
    assert (weights is None) is (expected_weights is None)
    if weights is not None:
        torch.testing.assert_close(weights, expected_weights)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("average", [True, False])
@pytest.mark.parametrize("is_masked", [True, False])
def test_the_same_comes_out_of_a_sequence_that_is_no_batch(is_masked, average, need_weights):
    torch.manual_seed(0)
    module = nn.MultiheadAttention(8, 2).double()
    kwargs = {"need_weights": need_weights, "average_attn_weights": average}
    if is_masked:
        kwargs["attn_mask"], kwargs["key_padding_mask"] = _draw(2, 5, 7) > 1.0, torch.arange(7) > 4
    args, given, _ = _arguments_of(module, _draw(5, 8), _draw(7, 8, seed=1), _draw(7, 8, seed=2), **kwargs)
    for found, expected in zip(_again(FORWARD, args, given), FORWARD(*args, **given), strict=True):
        assert (found is None) is (expected is None)
        if expected is not None:
            torch.testing.assert_close(found, expected)


class _Largest(TorchDispatchMode):
    """Notes how many numbers the largest tensor has that is made inside."""

    num_numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor):
            self.num_numbers = max(self.num_numbers, result.numel())
        return result


def test_a_causal_mask_of_a_long_sequence_is_not_made():
    """Of 8192 positions it took 0.6 GB, where the attention itself takes none."""
    x = torch.ones(1, 1, 2048, 2)
    given = fused_arguments(ATTEND, (x, x, x), {"is_causal": True})
    assert given is not None
    with _Largest() as largest:
        scores = fused_attention(given).sample_of_scores()
    assert scores.shape == (1, 1, 128, 2048)
    assert largest.num_numbers == scores.numel()
    open_keys = open_entries(scores).sum(-1).flatten()
    assert open_keys.tolist() == list(range(1, 2048, 16))


def test_scores_that_only_a_learned_bias_makes_sharp_are_told():
    class Biased(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.bias, self.head = nn.Parameter(1e3 * torch.randn(6, 6)), nn.Linear(16, 4)

        def forward(self, x):
            return self.head(ATTEND(x, x, x, attn_mask=self.bias))

    x = torch.randn(32, 6, 16, generator=torch.Generator().manual_seed(0))
    finding = the_finding(observe(Problem(Biased(), x), lines=True), SaturatedActivation())
    assert finding.severity >= Severity.WARNING
    assert_well_said([finding])


def test_so_many_scores_that_memory_may_not_hold_them_are_not_made():
    x = torch.ones(1, 2, 2**13, 1)
    given = fused_arguments(ATTEND, (x, x, x), {})
    assert given is not None
    with pytest.raises(ValueError, match="at most 67108864 scores"):
        fused_attention(given).with_other_choice(_kept, open_entries)


@pytest.mark.parametrize("make", [{"add_bias_kv": True}, {"add_zero_attn": True}])
def test_what_is_not_known_here_is_left_alone(make):
    args, kwargs, _ = _arguments_of(nn.MultiheadAttention(8, 2, **make), *[torch.ones(5, 3, 8)] * 3)
    assert fused_arguments(FORWARD, args, kwargs) is None


class Attending(nn.Module):
    """One layer of attention, in one of three ways of writing it."""

    def __init__(self, way, *, scale=1.0, is_causal=False):
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.head, self.way, self.is_causal = nn.Linear(16, 32), nn.Linear(32, 4), way, is_causal
        self.inside = nn.MultiheadAttention(32, 4, batch_first=True)
        with torch.no_grad():
            self.inside.in_proj_weight[:64] *= scale

    def forward(self, x):
        x = self.embed(x)
        mask = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).triu(1) if self.is_causal else None
        if self.way == "module":
            return self.head((x + self.inside(x, x, x, attn_mask=mask, need_weights=False)[0]).mean(1))
        q, k, v = (
            one.unflatten(-1, (4, 8)).transpose(1, 2) for one in F.linear(x, self.inside.in_proj_weight).chunk(3, -1)
        )
        if self.way == "fused":
            made = F.scaled_dot_product_attention(q, k, v, is_causal=self.is_causal)
        else:
            scores = q @ k.transpose(-2, -1) / 8**0.5
            made = (scores if mask is None else scores.masked_fill(mask, -1e9)).softmax(-1) @ v
        return self.head((x + self.inside.out_proj(made.transpose(1, 2).flatten(2))).mean(1))


def _problem(model, num_samples=64):
    generator = torch.Generator().manual_seed(0)
    x, targets = torch.randn(num_samples, 6, 16, generator=generator), torch.arange(num_samples) % 4
    return Problem(model, x, targets, nn.CrossEntropyLoss())


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("way", ["module", "fused", "by hand"])
def test_sharp_attention_is_told_however_it_is_written(way, is_causal):
    finding = the_finding(observe(_problem(Attending(way, scale=40.0, is_causal=is_causal))), SaturatedActivation())
    assert finding.severity is Severity.WARNING
    assert "softmax" in finding.message
    assert_well_said([finding])
    assert alarms(findings(observe(_problem(Attending(way, is_causal=is_causal))), [SaturatedActivation()])) == []


@pytest.mark.parametrize("way", ["module", "fused"])
def test_the_numbers_are_those_of_attention_by_hand(way):
    (fused,), (by_hand,) = (
        functional_activations(observe(_problem(Attending(kind, scale=4.0)))) for kind in (way, "by hand")
    )
    assert fused.mean_derivative == pytest.approx(by_hand.mean_derivative, rel=1e-5)
    assert fused.input_rms == pytest.approx(by_hand.input_rms, rel=1e-5)


def test_of_long_sequences_a_sample_is_enough():
    given = {"query": _draw(1, 2, 4096, 8), "key": _draw(1, 2, 512, 8), "value": _draw(1, 2, 512, 8)}
    attention = fused_attention(given | {"is_causal": True})
    whole, sample = attention.scores(), attention.sample_of_scores()
    assert sample.numel() <= 2**18
    every = whole.shape[-2] // sample.shape[-2]
    torch.testing.assert_close(sample, whole[..., ::every, :])


@pytest.mark.parametrize("way", ["module", "fused"])
def test_looking_inside_leaves_no_trace_with_dropout(way):
    class Dropping(Attending):
        def forward(self, x):
            return super().forward(F.dropout(x, 0.1))

    model, problem = Dropping(way, scale=40.0), _problem(Attending(way))
    before = torch.get_rng_state()
    recording = observe(Problem(model, problem.inputs, problem.targets, problem.loss))
    assert recording.series("loss_with_choices")
    assert torch.equal(torch.get_rng_state(), before)
    assert all(parameter.grad is None for parameter in model.parameters())


class FusedPointer(nn.Module):
    """Finds the key that is like the query, and returns its value, by fused attention."""

    def __init__(self):
        super().__init__()
        self.key, self.query, self.value = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(4, 4)

    def forward(self, keys, values, query):
        return ATTEND(self.query(query)[:, None], self.key(keys), self.value(values))[:, 0]


def test_fused_attention_that_has_learned_to_point_is_only_worth_knowing():
    torch.manual_seed(0)
    model = FusedPointer()
    inputs, targets = taught_to_point(model, num_steps=250)
    finding = the_finding(observe(Problem(model, inputs, targets, nn.MSELoss())), SaturatedActivation())
    assert finding.severity is Severity.INFO
    assert float(finding.evidence["loss_with_its_choice"]) < 0.1 * float(finding.evidence["loss_without_a_choice"])
