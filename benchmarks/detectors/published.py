"""Small classifiers from published studies of broken training programs: layers and initialisers as facts, weights our own draw."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.detectors.case import Case, Subject

_CODES: dict[str, tuple[str, ...]] = {
    "healthy_at_init": (),
    "vanishing_gradient": ("HW101",),
    "nan_at_init": ("HW104",),
    "zero_gradient": ("HW103",),
    "dying_relu": ("HW201", "HW103"),
}
_TRUNCATED = 0.87962566  # deviation of a normal distribution cut at two deviations
_EPS = 1e-7


class Exponential(nn.Module):
    """exp, as an activation."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.exp(x)


_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "exponential": Exponential,
    "softmax": partial(nn.Softmax, -1),
}


def cases() -> Iterator[Case]:
    """All of them."""
    for facts in json.loads((Path(__file__).parent / "architectures.json").read_text(encoding="utf-8")):
        yield Case(f"{facts['name']} ({facts['data']})", partial(_subject, facts), _CODES[facts["label"]])


def _subject(facts: dict[str, Any], seed: int) -> Subject | None:
    torch.manual_seed(seed)
    model = build(facts)
    inputs, targets = _data(facts, seed)
    subject = Subject(model, inputs, targets, partial(_loss, str(facts["layers"][-1][0])))
    return None if facts["label"] == "dying_relu" and not _has_died(model, inputs) else subject


def build(facts: dict[str, Any]) -> nn.Sequential:
    """The network, with biases at zero and weights drawn as its initialisers say."""
    shape = list(facts["input_shape"])
    layers: list[nn.Module] = []
    for kind, *arguments in facts["layers"]:
        if kind == "dense":
            layers.append(_initialised(nn.Linear(shape[-1], arguments[0]), arguments[1]))
            shape = [arguments[0]]
        elif kind == "conv":
            filters, size, padding, initialiser = arguments
            layers.append(_initialised(nn.Conv2d(shape[2], filters, size, padding=padding), initialiser))
            shape = [*(n if padding == "same" else n - size + 1 for n in shape[:2]), filters]
        elif kind == "pool":
            size, padding = arguments
            layers.append(nn.MaxPool2d(size, ceil_mode=padding == "same"))
            shape = [*((math.ceil if padding == "same" else math.floor)(n / size) for n in shape[:2]), shape[2]]
        elif kind == "flatten":
            layers.append(nn.Flatten())
            shape = [math.prod(shape)]
        else:
            layers.append(_ACTIVATIONS[kind]())
    return nn.Sequential(*layers)


def _initialised(layer: nn.Linear | nn.Conv2d, name: str) -> nn.Module:
    weight = layer.weight
    receptive = math.prod(weight.shape[2:])
    fan_in, fan_out = weight.shape[1] * receptive, weight.shape[0] * receptive
    variances = {"he": 2.0 / fan_in, "lecun": 1.0 / fan_in, "glorot": 2.0 / (fan_in + fan_out)}
    kind, _, distribution = name.partition("_")
    with torch.no_grad():
        if name == "Zeros":
            weight.zero_()
        elif name == "RandomNormal":
            weight.normal_(std=0.05)
        elif name == "TruncatedNormal":
            nn.init.trunc_normal_(weight, std=0.05, a=-0.1, b=0.1)
        elif distribution == "uniform":
            bound = math.sqrt(3.0 * variances[kind])
            weight.uniform_(-bound, bound)
        else:  # he_normal, lecun_normal, and VarianceScaling(1.0, 'fan_avg', 'normal')
            deviation = math.sqrt(variances.get(kind, variances["glorot"])) / _TRUNCATED
            nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def _data(facts: dict[str, Any], seed: int) -> tuple[Tensor, Tensor]:
    from sklearn.datasets import make_blobs, make_circles

    if facts["data"] in ("Circle", "Blob"):
        if facts["data"] == "Circle":
            features, labels = make_circles(1000, noise=0.1, random_state=1)
        else:
            features, labels = make_blobs(1000, centers=3, n_features=2, cluster_std=2, random_state=2)[:2]
        return torch.tensor(features[:64], dtype=torch.float32), torch.tensor(labels[:64])
    shape = facts["input_shape"]
    generator = torch.Generator().manual_seed(seed)
    shape = [shape[2], *shape[:2]] if len(shape) == 3 else shape
    return torch.rand(32, *shape, generator=generator), torch.randint(0, 10, (32,), generator=generator)


def _loss(last: str, output: Tensor, targets: Tensor) -> Tensor:
    """Binary cross-entropy for one unit; else cross-entropy of the last activation, normalised to sum to one."""
    if output.shape[-1] == 1:
        probability = output[:, 0] if last == "sigmoid" else torch.sigmoid(output[:, 0])
        return F.binary_cross_entropy(probability.clamp(_EPS, 1.0 - _EPS), targets.to(output.dtype))
    normalised = output / (output.sum(-1, keepdim=True) + _EPS)
    return F.nll_loss(torch.log(normalised.clamp_min(_EPS)), targets)


def _has_died(model: nn.Sequential, inputs: Tensor) -> bool:
    """Whether, with this seed, all units of some rectifier are off for all samples."""
    with torch.no_grad():
        for layer in model:
            inputs = layer(inputs)
            if isinstance(layer, nn.ReLU) and not inputs.any():
                return True
    return False
