"""What mean-field theory expects of a network, from its specification alone."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

from headwater.networks import NetworkSpec
from headwater.networks.critical_point import theory_activation
from headwater.networks.families import weight_layers
from headwater.networks.initialisation import layer_variances
from headwater.networks.shortcuts import branch_alpha, branch_scale
from headwater.theory.activations import Activation
from headwater.theory.dual_activation import correlation_depth_scale
from headwater.theory.mean_field import Initialisation, chi, depth_scale, fixed_point, variance_map
from headwater.theory.quadrature import gaussian_mean

_SHORTCUTS = ("none", "identity", "scaled", "learned")
_SMALLEST = 1e-12  # variance
_DIGITS = 9  # to which variances are told apart: a signal that has settled is computed once


class Prediction(NamedTuple):
    """Theory's word on a network of infinite width.

    Args:
        rate_decades_per_layer: the mean of log10 sqrt(chi) from the last hidden layer to the first one.
        depth_scale_layers: 1 / abs(ln chi) at the fixed point of the signal; None where it settles at none.
        correlation_depth_scale_layers: of two inputs' correlation, of which a network trains to about 6; None likewise.
    """

    rate_decades_per_layer: float | None = None
    depth_scale_layers: float | None = None
    correlation_depth_scale_layers: float | None = None


@dataclass(slots=True)
class _Signal:
    """What a hidden layer returns: its second moment, and its mean over the units."""

    second_moment: float
    mean: float = 0.0

    @property
    def variance(self) -> float:
        return self.second_moment - self.mean**2


def predict(spec: NetworkSpec, batch: int) -> Prediction:
    """What is expected of inputs N(0, 1); nothing where there is no closed form: other families, highways, dense shortcuts.

    Args:
        spec: of the network.
        batch: samples, for BatchNorm.

    >>> round(10 ** predict(NetworkSpec(depth=20, activation="tanh"), 32).rate_decades_per_layer, 2)
    0.57
    >>> predict(NetworkSpec(family="lstm"), 32).rate_decades_per_layer is None
    True
    """
    if spec.family != "mlp" or spec.shortcut not in _SHORTCUTS or (spec.normalisation == "batch" and batch < 4):
        return Prediction()
    steps = list(_chis(spec, batch))
    total = math.fsum(0.5 * math.log10(step) if step > 0.0 else -math.inf for step in steps)
    rate = total / len(steps) if steps else None
    if spec.shortcut != "none":
        return Prediction(rate)
    if spec.normalisation != "none" or spec.initialisation == "lsuv":
        return Prediction(rate, depth_scale(steps[-1]) if steps else None)
    initialisation = _initialisation(spec, min(1, spec.depth - 1))
    return Prediction(rate, *_at_fixed_point(theory_activation(spec.activation), initialisation))


@functools.lru_cache(maxsize=4096)
def _at_fixed_point(activation: Activation, initialisation: Initialisation) -> tuple[float | None, float | None]:
    variance = fixed_point(activation, initialisation)
    if math.isinf(variance):
        return None, None
    variance = max(variance, _SMALLEST)  # a signal that dies out: the limit, and not the slope at a kink
    of_gradient = depth_scale(chi(activation, initialisation, variance))
    return of_gradient, correlation_depth_scale(activation, initialisation, variance)


def _chis(spec: NetworkSpec, batch: int) -> Iterator[float]:
    """Chi of each hidden layer from the second one on: what it multiplies the squared norm of the gradient by."""
    activation, scale = theory_activation(spec.activation), _branch_scale(spec)
    signal = _Signal(1.0)  # the inputs
    for index in range(spec.depth):
        initialisation = _initialisation(spec, index)
        variance, norm_squared = _normalised(spec, initialisation, signal, is_first=index == 0)
        moments = _moments(activation, round(variance, _DIGITS) if variance > 1e-6 else variance)
        if index:
            branch = initialisation.weight_variance * moments.slope / norm_squared if norm_squared else math.inf
            if spec.normalisation == "batch":
                branch *= (batch - 2.0) / (batch - 3.0)
            yield branch if scale is None else 1.0 + scale**2 * branch
        if index == 0 or scale is None:
            signal = _Signal(moments.second, moments.mean)
        else:
            mixed = signal.second_moment + scale**2 * moments.second + 2.0 * scale * signal.mean * moments.mean
            signal = _Signal(mixed, signal.mean + scale * moments.mean)


def _normalised(spec: NetworkSpec, start: Initialisation, signal: _Signal, *, is_first: bool) -> tuple[float, float]:
    """The variance of the pre-activation, and what the norm divides the squared gradient by."""
    centred = signal.second_moment if spec.normalisation == "rms" else signal.variance
    before = start.weight_variance * signal.second_moment + start.bias_variance
    if spec.normalisation == "none":
        return (1.0, before) if spec.initialisation == "lsuv" else (before, 1.0)
    if spec.norm_position == "pre":  # act(W norm(x)); the first layer reads the inputs as they are
        return (before, 1.0) if is_first else (start.weight_variance + start.bias_variance, centred)
    if spec.normalisation == "batch":  # what all samples share, biases too, goes
        return 1.0, start.weight_variance * signal.variance
    return 1.0, before


class _Moments(NamedTuple):
    mean: float
    second: float
    slope: float


@functools.lru_cache(maxsize=65536)
def _moments(activation: Activation, variance: float) -> _Moments:
    """E phi, E phi² and E phi'² of a pre-activation N(0, variance)."""
    unit = Initialisation(1.0)
    mean = gaussian_mean(activation.function, variance, activation.kinks)
    return _Moments(mean, variance_map(activation, unit, variance), chi(activation, unit, variance))


def _initialisation(spec: NetworkSpec, index: int) -> Initialisation:
    return Initialisation(*layer_variances(spec, weight_layers(spec)[index]))


def _branch_scale(spec: NetworkSpec) -> float | None:
    if spec.shortcut == "none":
        return None
    alpha = branch_alpha(spec)
    return branch_scale(spec) * (1.0 if alpha is None else alpha.item())
