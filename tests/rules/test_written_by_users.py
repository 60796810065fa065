"""Regression tests of what an audit found: healthy designs that raised alarms, and faults that were missed or misplaced."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from headwater.capture import Problem, observe
from headwater.findings import Severity
from headwater.rules import (
    ExplodingGradient,
    NonFinite,
    SignalScale,
    UnreachedParameter,
    UntrainedParameter,
    VanishingGradient,
    ZeroGradient,
)
from tests.rules.conclusions import assert_well_said, the_finding


def worst(rule, model, inputs, loss=None, **options):
    """The highest severity that the rule finds; None where it finds nothing."""
    verdict = rule.check(observe(Problem(model, inputs, loss=loss, **options)))
    return max((finding.severity for finding in verdict), default=None) if isinstance(verdict, list) else None


def randn(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


# --- HW101 ----------------------------------------------------------------------------------------------------------


class GlobalAverage(nn.Module):
    """Four convolutions of a large picture, averaged by a function or by a module."""

    def __init__(self, average):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 16, 16, 3, padding=1) for i in range(4))
        self.average, self.head = average, nn.Linear(16, 10)

    def forward(self, x):
        for layer in self.layers:
            x = F.relu(layer(x))
        return self.head(self.average(x).flatten(1))


def lost(average):
    torch.manual_seed(0)
    recording = observe(Problem(GlobalAverage(average), randn(4, 3, 64, 64)))
    return the_finding(recording, VanishingGradient(info_decades=0.5)).evidence["lost_decades"]


@pytest.mark.parametrize(
    "average",
    [
        lambda x: x.mean((2, 3)),
        lambda x: torch.mean(x, dim=(2, 3)),
        lambda x: F.adaptive_avg_pool2d(x, 1),
        lambda x: F.avg_pool2d(x, 64),
    ],
)
def test_an_average_called_as_a_function_costs_what_a_module_does(average):
    assert lost(average) == pytest.approx(lost(nn.AdaptiveAvgPool2d(1)), abs=1e-3)


def test_a_head_that_starts_small_is_no_vanishing_gradient():
    def policy(gain):
        torch.manual_seed(0)
        layers = [nn.Linear(32, 32) for _ in range(6)]
        for layer in layers:
            nn.init.orthogonal_(layer.weight)
        head = nn.Linear(32, 4)
        nn.init.orthogonal_(head.weight, gain)
        return nn.Sequential(*(part for layer in layers for part in (layer, nn.Tanh())), head)

    assert worst(VanishingGradient(), policy(1e-4), randn(64, 32)) in (None, Severity.INFO)


def test_a_small_layer_inside_is_still_a_vanishing_gradient():
    torch.manual_seed(0)
    layers = [nn.Linear(32, 32) for _ in range(3)]
    nn.init.normal_(layers[1].weight, std=1e-5)
    model = nn.Sequential(layers[0], nn.Tanh(), layers[1], nn.Tanh(), layers[2])
    assert worst(VanishingGradient(), model, randn(64, 32)) in (Severity.WARNING, Severity.ERROR)


@pytest.mark.parametrize("length", [6, 96])
def test_an_encoder_behind_a_cross_attention_is_reached_however_long_its_input(length):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    sizes = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=64, d_model=16, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128, **sizes
    )
    inputs = {"input_ids": torch.randint(3, 64, (2, length)), "labels": torch.randint(3, 64, (2, 8))}
    # Made for width 1024: at width 16 the weights of the branch start ten times smaller than their width asks for.
    assert worst(VanishingGradient(), transformers.BartForConditionalGeneration(config), inputs) in (
        None,
        Severity.INFO,
    )


def test_a_stack_of_attention_without_shortcuts_is_still_a_vanishing_gradient():
    torch.manual_seed(0)

    class Pure(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(16, 2, batch_first=True)

        def forward(self, x):
            return self.attention(x, x, x, need_weights=False)[0]

    model = nn.Sequential(*(Pure() for _ in range(10)), nn.Linear(16, 2))
    assert worst(VanishingGradient(), model, randn(2, 12, 16)) in (Severity.WARNING, Severity.ERROR)


# --- HW103 ----------------------------------------------------------------------------------------------------------


class GradientPenalty(nn.Module):
    """A critic of a Wasserstein GAN: piecewise linear, differentiated in its own forward."""

    def __init__(self):
        super().__init__()
        self.critic = nn.Sequential(
            nn.Linear(6, 16), nn.LeakyReLU(), nn.Linear(16, 16), nn.LeakyReLU(), nn.Linear(16, 1)
        )

    def forward(self, real, fake):
        between = (0.5 * real + 0.5 * fake).requires_grad_()
        (slope,) = torch.autograd.grad(self.critic(between).sum(), between, create_graph=True)
        penalty = (slope.norm(dim=1) - 1.0).square().mean()
        return self.critic(fake).mean() - self.critic(real).mean() + 10.0 * penalty


def test_a_gradient_penalty_is_no_zero_gradient():
    torch.manual_seed(0)
    assert worst(ZeroGradient(), GradientPenalty(), (randn(16, 6), randn(16, 6))) in (None, Severity.INFO)


class Branch(nn.Module):
    def __init__(self, factor):
        super().__init__()
        self.layer, self.factor = nn.Linear(8, 8), factor

    def forward(self, x):
        return x + self.factor * torch.tanh(self.layer(x))


def test_a_block_that_is_dropped_for_the_whole_batch_is_a_design():
    factors = [torch.ones(1, 1), torch.zeros(1, 1), torch.ones(1, 1)]
    model = nn.Sequential(*(Branch(factor) for factor in factors), nn.Linear(8, 2))
    assert worst(ZeroGradient(), model, randn(1, 8)) is Severity.INFO


def test_all_blocks_times_zero_are_a_fault():
    model = nn.Sequential(*(Branch(torch.zeros(1, 1)) for _ in range(3)), nn.Linear(8, 2))
    assert worst(ZeroGradient(), model, randn(4, 8)) is Severity.ERROR


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.tanh(self.first(x))
        x = torch.round(x)  # where it dies
        x = x.unsqueeze(1).squeeze(1)
        return self.second(x)


def test_a_zero_gradient_names_the_line_at_which_it_dies():
    finding = the_finding(observe(Problem(Steps(), randn(16, 8))), ZeroGradient())
    assert [line.code for line in finding.lines] == ["x = torch.round(x)  # where it dies"]
    assert_well_said([finding])


def test_a_slope_below_float16_names_the_format_and_the_remedy():
    torch.manual_seed(0)
    model = nn.Linear(8, 2).half()
    recording = observe(Problem(model, randn(16, 8).half(), loss=lambda output: 1e-9 * output.float().square().mean()))
    finding = the_finding(recording, ZeroGradient())
    assert "float16, 2**-24" in finding.cause
    assert "GradScaler" in finding.remedies[0]
    assert_well_said([finding])


# --- HW104, HW203 ---------------------------------------------------------------------------------------------------


class LogOfZero(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.log(F.relu(self.first(x)))  # minus infinity, of which the next layer makes NaN
        return self.second(x)


def test_nan_of_an_infinity_that_stands_before_the_call_is_traced_to_its_maker():
    torch.manual_seed(0)
    finding = the_finding(
        observe(Problem(LogOfZero(), randn(16, 8), loss=lambda output: output.square().mean())), NonFinite()
    )
    assert finding.lines[0].code.startswith("x = torch.log(")
    assert finding.evidence["operation"] == "torch.log"


def test_a_mask_of_large_numbers_is_no_signal():
    class Masked(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.head = nn.Linear(8, 8), nn.Linear(8, 2)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x):
            x, mask = self.embed(x), torch.full((6, 6), -1e9).triu(1)
            return self.head(x + self.attention(x, x, x, attn_mask=mask)[0])

    assert worst(SignalScale(), Masked(), randn(4, 6, 8)) is None


# --- HW401 ----------------------------------------------------------------------------------------------------------


class Stack(nn.Module):
    """Blocks with two exits, of which the last one's first is not used."""

    def __init__(self, forward):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"on": nn.Linear(8, 8), "out": nn.Linear(8, 8)}) for _ in range(3))
        self.run = forward

    def forward(self, x):
        return self.run(self.blocks, x)


def every_exit(blocks, x):
    total = 0.0
    for block in blocks:
        total, x = total + block["out"](x), torch.tanh(block["on"](x))
    return total


def only_the_last_block(blocks, x):
    y = x
    for block in blocks:
        y = block["out"](torch.tanh(block["on"](x)))  # should be x = ...
    return y


def test_the_exit_of_the_last_block_is_only_worth_knowing():
    finding = the_finding(observe(Problem(Stack(every_exit), randn(4, 8))), UnreachedParameter())
    assert (finding.severity, finding.modules) == (Severity.INFO, ("blocks.2.on",))


def test_a_loop_that_forgets_to_hand_on_is_a_warning():
    finding = the_finding(observe(Problem(Stack(only_the_last_block), randn(4, 8))), UnreachedParameter())
    assert finding.severity is Severity.WARNING
    assert set(finding.modules) == {"blocks.0.on", "blocks.0.out", "blocks.1.on", "blocks.1.out"}


def bert(**options):
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, vocab_size=20
    )
    return transformers.BertModel(config, **options)


class ThroughPython(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x):
        x = torch.tanh(self.encoder(x))
        x = torch.tensor(x.tolist())  # the cut
        return self.decoder(x)


def test_a_way_through_python_lists_is_a_cut_with_its_line():
    finding = the_finding(observe(Problem(ThroughPython(), randn(4, 8))), UnreachedParameter())
    assert finding.severity is Severity.ERROR
    assert [line.code for line in finding.lines] == ["x = torch.tensor(x.tolist())  # the cut"]


class OnABackbone(nn.Module):
    """A user's head on a library's model, with a layer of the user's own that may be forgotten."""

    def __init__(self, *, calls_projection=True, calls_backbone=True):
        super().__init__()
        self.backbone, self.embed = bert(), nn.Embedding(20, 16)
        self.projection, self.head = nn.Linear(16, 16), nn.Linear(16, 2)
        self.calls_projection, self.calls_backbone = calls_projection, calls_backbone

    def forward(self, tokens):
        x = self.embed(tokens)
        if self.calls_backbone:
            x = x + self.backbone(tokens).last_hidden_state
        return self.head(self.projection(x) if self.calls_projection else x)


TOKENS = torch.arange(12).view(2, 6)


def test_what_a_library_leaves_out_is_only_worth_knowing():
    finding = the_finding(observe(Problem(OnABackbone(), TOKENS)), UnreachedParameter())
    assert (finding.severity, finding.modules) == (Severity.INFO, ("backbone.pooler.dense",))


def test_a_layer_that_the_user_forgets_is_a_warning():
    verdict = UnreachedParameter().check(observe(Problem(OnABackbone(calls_projection=False), TOKENS)))
    warned = {module for finding in verdict if finding.severity >= Severity.WARNING for module in finding.modules}
    assert warned == {"projection"}


def test_a_librarys_model_that_the_user_forgets_is_a_warning():
    finding = the_finding(observe(Problem(OnABackbone(calls_backbone=False), TOKENS)), UnreachedParameter())
    assert finding.severity is Severity.WARNING
    assert all(module.startswith("backbone.") for module in finding.modules)


# --- HW402 ----------------------------------------------------------------------------------------------------------


class Loose(nn.Module):
    """A weight that is a plain tensor, in one way or another."""

    def __init__(self, keep):
        super().__init__()
        self.layer = nn.Linear(8, 2)
        keep(self, torch.eye(8).requires_grad_())

    def forward(self, x):
        return self.layer(torch.tanh(x @ self.weight()))

    def weight(self):
        kept = getattr(self, "w", None)
        return kept if isinstance(kept, torch.Tensor) else next(iter(kept.values() if isinstance(kept, dict) else kept))


KEPT = {
    "w": lambda module, w: setattr(module, "w", w),
    "w[0]": lambda module, w: setattr(module, "w", [w]),
    "w['a']": lambda module, w: setattr(module, "w", {"a": nn.Parameter(w.detach())}),
}


@pytest.mark.parametrize("attribute", KEPT)
def test_a_weight_that_is_no_parameter_is_not_trained(attribute):
    model = nn.Sequential(Loose(KEPT[attribute]))
    finding = the_finding(observe(Problem(model, randn(4, 8))), UntrainedParameter())
    assert (finding.severity, finding.modules, finding.evidence["num_elements"]) == (Severity.WARNING, ("0",), 64)
    assert f"0.{attribute}" in finding.message
    assert_well_said([finding])


@pytest.mark.parametrize("trained", [False, True])
def test_what_was_computed_from_a_parameter_is_no_parameter(trained):
    weight = nn.Parameter(torch.eye(8))
    model = Loose(lambda module, w: setattr(module, "w", weight * 0.1))
    optimizer = torch.optim.SGD([*model.parameters(), weight] if trained else model.parameters(), 0.1)
    recording = observe(Problem(model, randn(4, 8), loss=torch.sum, optimizer=optimizer))
    if trained:
        assert not UntrainedParameter().check(recording)
    else:
        finding = the_finding(recording, UntrainedParameter())
        assert (finding.severity, finding.modules, finding.evidence["num_elements"]) == (Severity.WARNING, ("",), 64)


def test_what_was_computed_from_a_registered_parameter_is_trained():
    model = Loose(lambda module, w: setattr(module, "w", w.detach()))
    model.original = nn.Parameter(torch.eye(8))
    model.w = model.original * 0.1
    assert worst(UntrainedParameter(), model, randn(4, 8)) is None


def test_a_buffer_that_wants_a_gradient_is_not_trained_either():
    model = Loose(lambda module, w: module.register_buffer("w", w))
    assert the_finding(observe(Problem(model, randn(4, 8))), UntrainedParameter()).modules == ("",)


def test_a_plain_tensor_that_an_optimiser_holds_is_trained():
    model = Loose(KEPT["w"])
    optimizer = torch.optim.SGD([*model.parameters(), model.w], 0.1)
    loss = lambda output: output.square().mean()  # noqa: E731
    assert worst(UntrainedParameter(), model, randn(4, 8), loss, optimizer=optimizer) is None


@pytest.mark.parametrize(
    "keep",
    [
        lambda module, w: setattr(module, "w", w.detach()),
        lambda module, w: (setattr(module, "w", w.detach()), setattr(module, "unused", w)),
    ],
)
def test_a_plain_tensor_that_wants_or_gets_no_gradient_is_no_finding(keep):
    assert worst(UntrainedParameter(), Loose(keep), randn(4, 8)) is None


def test_what_a_forward_pass_keeps_for_itself_is_no_finding():
    class Saliency(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(8, 2)

        def forward(self, x):
            self.seen = x.requires_grad_()
            return self.layer(self.seen)

    assert worst(UntrainedParameter(), Saliency(), randn(4, 8)) is None


class FixupBlock(nn.Module):
    """As in the paper's code: convolutions without biases, and scalar biases and a multiplier of the block's own (Zhang et al. 2019)."""

    def __init__(self, width, num_blocks):
        super().__init__()
        self.before_first, self.after_first, self.before_last, self.after_last = (
            nn.Parameter(torch.zeros(1)) for _ in range(4)
        )
        self.scale = nn.Parameter(torch.ones(1))
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.last = nn.Conv2d(width, width, 3, padding=1, bias=False)
        nn.init.kaiming_normal_(self.first.weight)
        nn.init.zeros_(self.last.weight)
        with torch.no_grad():
            self.first.weight.mul_(num_blocks**-0.5)

    def forward(self, x):
        out = F.relu(self.first(x + self.before_first) + self.after_first)
        return F.relu(x + self.last(out + self.before_last) * self.scale + self.after_last)


def test_fixup_with_its_scalar_biases_is_a_design():
    torch.manual_seed(0)
    head = nn.Linear(8, 4)
    nn.init.zeros_(head.weight)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        *(FixupBlock(8, 4) for _ in range(4)),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        head,
    )
    assert (
        worst(ZeroGradient(), model, randn(16, 3, 8, 8), lambda y: F.cross_entropy(y, torch.arange(16) % 4))
        is Severity.INFO
    )


class Normalised(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 8), nn.Linear(8, 4)
        nn.init.zeros_(self.first.weight)
        nn.init.zeros_(self.first.bias)

    def forward(self, x):
        return self.last(F.normalize(self.first(x)))


def test_a_functional_division_by_a_norm_near_zero_is_not_called_growth_in_every_layer():
    finding = the_finding(observe(Problem(Normalised(), randn(16, 8))), ExplodingGradient())
    assert finding.severity is Severity.ERROR
    assert finding.cause.startswith("A single operation multiplies the gradient: it divides by something near zero")
    assert finding.message.startswith(
        "The gradient grows by a factor of 1e+12 at F.normalize in the model (Normalised)"
    )
    assert finding.modules == ("", "first")
    assert "divisor" in finding.remedies[0]
    assert_well_said([finding])


@pytest.mark.parametrize("make_norm", [nn.LayerNorm, nn.BatchNorm1d])
def test_a_norm_with_small_weights_is_not_said_to_divide_by_a_large_signal(make_norm):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), make_norm(8), nn.Tanh(), nn.Linear(8, 4))
    nn.init.constant_(model[1].weight, 1e-5)
    finding = the_finding(observe(Problem(model, randn(16, 8))), VanishingGradient())
    assert finding.cause.startswith(f"{make_norm.__name__} multiplies by weights of its own that are small (RMS 1e-05)")
    assert finding.evidence[f"weight_rms_{make_norm.__name__}"] == pytest.approx(1e-5)


def test_a_norm_of_a_large_signal_is_said_to_divide_by_its_deviation():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.LayerNorm(8), nn.Tanh(), nn.Linear(8, 4))
    with torch.no_grad():
        model[0].weight.mul_(1e5)
    finding = the_finding(observe(Problem(model, randn(16, 8))), VanishingGradient())
    assert finding.cause.startswith("LayerNorm divides by the deviation of a large signal")
