"""Networks with a planted fault whose truth is mathematical, and healthy ones that look broken to a careless rule."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.detectors.case import Case, Subject
from tests.capture.transformers_models import MODEL_TYPES
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy

Make = Callable[[], nn.Module]


def cases() -> Iterator[Case]:
    """All of them."""
    yield from _vanishing_and_exploding()
    yield from _broken_elsewhere()
    yield from _shattered_and_noisy()
    yield from _optimisers()
    yield from _healthy()


def _inputs(width: int, samples: int = 64, seed: int = 0) -> Tensor:
    return torch.randn(samples, width, generator=torch.Generator().manual_seed(seed))


def _subject(make: Make, inputs: Callable[[int], object], loss: object, seed: int) -> Subject:
    torch.manual_seed(seed)
    return Subject(make(), inputs(seed), loss=loss)  # type: ignore[arg-type]


def _case(
    name: str,
    make: Make,
    codes: str = "",
    module: str | None = None,
    *,
    width: int = 8,
    inputs: Callable[[int], object] | None = None,
    loss: object = None,
) -> Case:
    given = inputs or (lambda seed: _inputs(width, seed=seed))
    return Case(name, partial(_subject, make, given, loss), tuple(codes.split()), module)


def _stack(activation: Make, num_layers: int, width: int, init: Callable[[Tensor], object] | None = None) -> nn.Module:
    return broken.plain(activation, num_layers, width, init)


def _scaled(factor: float, weight: Tensor) -> None:
    nn.init.normal_(weight, std=factor / math.sqrt(weight.shape[1]))


def _square(output: Tensor) -> Tensor:
    return output.square().mean()


def _vanishing_and_exploding() -> Iterator[Case]:
    for depth in (12, 20, 30):
        yield _case(f"{depth} sigmoid layers, default", partial(_stack, nn.Sigmoid, depth, 32), "HW101", width=32)
    for activation, depth in (
        (nn.GELU, 16),
        (nn.GELU, 30),
        (nn.ReLU, 20),
        (nn.SiLU, 16),
        (nn.Tanh, 30),
        (nn.Softplus, 16),
    ):
        name = f"{depth} {activation.__name__} layers, default"
        yield _case(name, partial(_stack, activation, depth, 64), "HW101", width=64)
    glorot = partial(_stack, nn.ReLU, 34, 128, nn.init.xavier_normal_)
    yield _case("34 ReLU layers, Glorot", glorot, "HW101", width=128)
    for loss_scale in (1e-8, 1e8):
        yield _case(
            f"20 sigmoid layers, loss x {loss_scale:g}",
            partial(_stack, nn.Sigmoid, 20, 32),
            "HW101",
            width=32,
            loss=lambda output, scale=loss_scale: scale * _square(output),
        )
    yield _case("functional sigmoids", broken.FunctionalSigmoids, "HW101", width=32)
    for factor, depth in ((3.0, 12), (4.0, 10)):
        make = partial(_stack, nn.ReLU, depth, 64, partial(_scaled, factor))
        yield _case(f"{depth} ReLU layers, weights x {factor:g}", make, "HW102 HW203", width=64)
    yield _case("x + relu(Wx), weights too large", broken.ExplodingShortcuts, "HW102", width=64)
    norm = broken.Apply(lambda x: F.normalize(x, dim=-1))
    yield _case(
        "F.normalize of zeros",
        lambda: nn.Sequential(nn.Linear(8, 8), broken.zeroed(nn.Linear(8, 8)), norm, nn.Linear(8, 1)),
        "HW102",
        "2",
    )


def _broken_elsewhere() -> Iterator[Case]:
    def between(function: Callable[[Tensor], Tensor]) -> Make:
        return lambda: nn.Sequential(nn.Linear(8, 8), broken.Apply(function), nn.Linear(8, 1))

    yield _case("acos at one", between(broken.acos_of_ones), "HW104", "1")
    yield _case("exp of exp of exp", between(broken.thrice_exponential), "HW104", "1")
    yield _case("log of ReLU", between(lambda x: torch.log(torch.relu(x))), "HW104", "1")
    yield _case("sqrt of ReLU", between(lambda x: torch.sqrt(torch.relu(x))), "HW104", "1")
    yield _case("norm at zero", between(lambda x: x - (x * 0.0).square().sum(-1, keepdim=True).sqrt()), "HW104", "1")
    yield _case(
        "a masked row of attention",
        lambda: broken.Masked(8),
        "HW104",
        inputs=lambda _: torch.randn(2, 4, 8),
        loss=_masked_loss,
    )
    yield _case("detach in a module", between(lambda x: torch.tanh(x).detach()), "HW401", "1")
    yield _case("detach in forward", broken.DetachedInForward, "HW401", "")
    yield _case("encoder under no_grad", broken.NoGradEncoder, "HW401", "encoder")
    yield _case("argmax in the middle", broken.ArgmaxInTheMiddle, "HW401", "choose")
    yield _case("a comparison in the middle", between(lambda x: (x > 0).float()), "HW401", "1")
    yield _case("a forgotten branch", broken.UnusedBranch, "HW401", "forgotten")
    yield _case(
        "softmax over one unit",
        lambda: nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1), nn.Softmax(-1)),
        "HW103",
        "3",
    )
    yield _case("functional softmax over one unit", broken.FunctionalSoftmaxOfOneUnit, "HW103")
    yield _case("round", between(torch.round), "HW103", "1")
    yield _case("sign", between(torch.sign), "HW103", "1")
    for units, name in ((slice(None), "all"), (slice(4), "4 of 8")):
        yield _case(
            f"bias -100 before ReLU, {name} units",
            lambda units=units: nn.Sequential(
                broken.with_bias(nn.Linear(8, 8), -100.0, units), nn.ReLU(), nn.Linear(8, 1)
            ),
            "HW201 HW103" if name == "all" else "HW201",
            "1",
        )
    for activation in (nn.Sigmoid, nn.Tanh):
        yield _case(
            f"inputs x 1e4 into {activation.__name__}",
            lambda activation=activation: nn.Sequential(nn.Linear(8, 8), activation(), nn.Linear(8, 1)),
            "HW202",
            "1",
            inputs=lambda seed: 1e4 * _inputs(8, seed=seed),
        )
    yield _case(
        "30 tanh layers, weights x 0.3",
        partial(_stack, nn.Tanh, 30, 16, partial(_scaled, 0.3)),
        "HW203 HW101",
        width=16,
    )
    yield _case("constant initialisation", _constant, "HW403", "0")
    yield _case("hidden copies of one unit", _copied, "HW403", "0")
    yield _case("attention without shortcuts", _PureAttention, "HW204", inputs=lambda _: torch.randn(1, 16, 16))
    yield _case("30 sigmoid layers, all samples one", partial(_stack, nn.Sigmoid, 30, 32), "HW204", width=32)


def _shattered_and_noisy() -> Iterator[Case]:
    he, chaotic = broken.he, partial(_scaled, 2.0)
    for depth in (50, 100):
        yield _case(f"{depth} layers of batch norm", partial(_bare, nn.ReLU, depth, 64, he, True), "HW105", width=64)
    for width in (64, 256):
        make = partial(_bare, nn.Tanh, 60, width, chaotic)
        yield _case(f"60 chaotic tanh layers of width {width}", make, "HW105", width=width)
    yield _case("120 He-ReLU layers", partial(_bare, nn.ReLU, 120, 512, he), "HW105", width=512)
    for rate, depth in ((0.9, 3), (0.95, 2), (0.8, 6)):
        make = partial(_dropping, rate, depth)
        yield _case(f"dropout {rate:g} in {depth} layers", make, "HW106", "0", width=64)
    # Healthy look-alikes: the same, but less of it, and data without a signal.
    for depth in (10, 20):
        yield _case(f"healthy {depth} layers of batch norm", partial(_bare, nn.ReLU, depth, 64, he, True), width=64)
    yield _case("healthy 34 He-ReLU layers", partial(_bare, nn.ReLU, 34, 128, he), width=128)
    yield _case("healthy 10 chaotic tanh layers", partial(_bare, nn.Tanh, 10, 64, chaotic), width=64)
    yield _case("healthy 50 normalised shortcuts", partial(healthy.residual, 50), width=16)
    for rate, depth in ((0.1, 6), (0.5, 2), (0.5, 4)):
        yield _case(f"healthy dropout {rate:g} in {depth} layers", partial(_dropping, rate, depth), width=64)
    yield _case("healthy outputs that nothing predicts", partial(_stack, nn.ReLU, 3, 64), width=64, loss=_unpredictable)


def _bare(
    activation: Make, num_layers: int, width: int, init: Callable[[Tensor], object], normalised: bool = False
) -> nn.Module:
    """Layers without biases, the activation after each but the last, batch normalisation before it."""
    layers: list[nn.Module] = []
    for _ in range(num_layers - 1):
        linear = nn.Linear(width, width, bias=False)
        init(linear.weight)
        layers += [linear, *([nn.BatchNorm1d(width)] if normalised else []), activation()]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def _dropping(rate: float, num_layers: int, width: int = 64) -> nn.Module:
    hidden = [(nn.Linear(width, width), nn.ReLU(), nn.Dropout(rate)) for _ in range(num_layers)]
    return nn.Sequential(*(module for modules in hidden for module in modules), nn.Linear(width, 10))


def _unpredictable(output: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(len(output))
    return F.cross_entropy(output, torch.randint(0, output.shape[1], (len(output),), generator=generator))


def _masked_loss(output: Tensor) -> Tensor:
    return output[:, 1:].square().mean()


def _constant() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    for layer in (model[0], model[2]):
        nn.init.constant_(layer.weight, 0.1)  # type: ignore[arg-type]
        nn.init.zeros_(layer.bias)  # type: ignore[arg-type]
    return model


def _copied() -> nn.Module:
    model = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 4), nn.Tanh(), nn.Linear(4, 2))
    with torch.no_grad():
        for layer, dim in ((model[0], 0), (model[2], 1)):
            half = layer.weight.narrow(dim, 0, 3)  # type: ignore[operator]
            layer.weight.copy_(torch.cat([half, half], dim))  # type: ignore[operator]
        model[0].bias[3:] = model[0].bias[:3]  # type: ignore[index]
    return model


class _PureAttention(nn.Module):
    """Attention that averages, with neither shortcuts nor norms (Dong et al. 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(12))
        self.head = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = (x @ x.mT / 16.0).softmax(-1) @ layer(x)
        return self.head(x)


def _optimisers() -> Iterator[Case]:
    def make(seed: int, *, lr: float, leave_out: bool = False, depth: int = 3, eps: float = 1e-8) -> Subject:
        torch.manual_seed(seed)
        model = _stack(nn.GELU, depth, 32)
        parameters = list(model.parameters())[2 if leave_out else 0 :]
        optimizer = torch.optim.AdamW(parameters, lr=lr, eps=eps)
        return Subject(model, _inputs(32, seed=seed), torch.zeros(64, 10), nn.MSELoss(), optimizer)

    yield Case("a layer that no optimiser holds", partial(make, lr=1e-3, leave_out=True), ("HW402",), "0")
    yield Case("a learning rate of 10", partial(make, lr=10.0), ("HW303",))
    yield Case("Adam, first layers below eps", partial(make, lr=1e-3, depth=20), ("HW301", "HW101"))

    def half(seed: int) -> Subject:
        torch.manual_seed(seed)
        model = _stack(nn.Tanh, 3, 32)
        return Subject(
            model,
            _inputs(32, seed=seed),
            torch.zeros(64, 10),
            lambda output, target: 1e-7 * F.mse_loss(output, target),
            options={"precision": "float16"},
        )

    yield Case("gradients below float16", half, ("HW302",))


def _described(make: object) -> str:
    """Name and arguments, without the addresses that functions print."""
    if isinstance(make, partial):
        settings = [*make.args, *(f"{name}={value}" for name, value in make.keywords.items())]
        return " ".join([_described(make.func).strip("_"), *map(_described, settings)])
    return str(getattr(make, "__name__", make))


def _healthy() -> Iterator[Case]:
    for make, width in (
        (healthy.Lora, 16),
        (partial(healthy.Lora, update_first=True), 16),
        (healthy.residual, 16),
        (partial(healthy.residual, scale=0.0), 16),
        (partial(healthy.residual, scale=1e-6), 16),
        (healthy.fixup, 16),
        (healthy.SparseExperts, 8),
        (healthy.DenseExperts, 8),
        (healthy.EmptyExperts, 8),
        (healthy.DroppedBranches, 8),
        (healthy.MaskedActions, 8),
        (healthy.batch_normalised, 32),
        (partial(_stack, nn.ReLU, 20, 128, broken.he), 128),
        (partial(_stack, nn.Tanh, 17, 5, nn.init.kaiming_uniform_), 5),
        (partial(_stack, nn.Tanh, 10, 64, nn.init.xavier_normal_), 64),
        (partial(_stack, nn.ReLU, 3, 64), 64),
    ):
        yield _case(f"healthy {_described(make)}", make, width=width)
    for scale in (1e-6, 65536.0):
        yield _case(
            f"He-ReLU, loss x {scale:g}",
            partial(_stack, nn.ReLU, 20, 128, broken.he),
            width=128,
            loss=lambda output, scale=scale: scale * _square(output),
        )
    for make, shape in (
        (healthy.zero_gamma, (8, 3, 8, 8)),
        (healthy.SqueezeExcite, (8, 3, 8, 8)),
        (healthy.convolutional, (8, 3, 32, 32)),
        (healthy.CausalAttention, (4, 6, 8)),
        (healthy.AttentionOverOneKey, (16, 1, 8)),
    ):
        yield _case(f"healthy {make.__name__}", make, inputs=lambda _, shape=shape: torch.randn(*shape))
    yield _case(
        "adaLN-Zero",
        healthy.AdaptiveNormZero,
        inputs=lambda seed: (_inputs(16, seed=seed), _inputs(4, seed=seed + 1)),
    )
    for name in (
        "GPT2LMHeadModel",
        "LlamaForCausalLM",
        "BertForMaskedLM",
        "ViTForImageClassification",
        "ResNetForImageClassification",
        "T5ForConditionalGeneration",
        "MambaForCausalLM",
        "MixtralForCausalLM",
    ):
        model_type = next(model_type for model_type in MODEL_TYPES if model_type.model_class == name)
        yield _case(f"tiny {name}", model_type.build, inputs=lambda _, model_type=model_type: model_type.inputs())
