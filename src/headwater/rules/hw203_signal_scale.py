"""HW203: the forward signal shrinks or grows by orders of magnitude on its way through the layers."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from headwater.analysis.functional_layers import position_of_call
from headwater.analysis.functional_signals import functional_signals
from headwater.analysis.gradient_path import leaf_calls, median_decades
from headwater.analysis.parametrizations import layer_of
from headwater.findings import Finding, NotApplicable, Severity, Verdict
from headwater.recording import Call, Recording, SignalKind, SourceLine
from headwater.rules.wording import counted, distinct

_LEAST_LAYERS = 3
_OF_SEVERAL_MATRICES = ("RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "MultiheadAttention")


@dataclass(frozen=True, slots=True)
class _Layer:
    """One leaf call with weights, or one product of functional code.

    Args:
        call: it, or the one that the product ran in.
        rms: the larger of what it reads and returns: a branch may return little by design.
        line: of the product.
    """

    call: Call
    rms: float
    line: SourceLine | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SignalScale:
    """HW203: signal-collapse or signal-explosion: the RMS of the activations leaves the range in which layers work.

    Compared are the first layer and the last tenth of the hidden layers (the output layer may be small by design); a
    network that shrinks and is normalised again before its end passes. The scale of the inputs does not enter, and only what is
    small, or large, in itself counts: biases, eps and activations have a scale of their own.

    Args:
        collapse_warning_decades: lost from the first layer to the last hidden ones; a signal of one is then below float16's
            smallest normal number, 6.1e-5.
        collapse_error_decades: lost; a signal of one is then zero in float16 (2**-24).
        explosion_warning_decades: gained; a signal of one is then above float16's largest number, 65504.
        explosion_error_decades: gained; the square of the signal then leaves float32.
        small_rms: RMS above which nothing has collapsed, whatever it was before.
        large_rms: RMS below which nothing has exploded.
    """

    code: ClassVar[str] = "HW203"
    name: ClassVar[str] = "signal-scale"

    collapse_warning_decades: float = 4.2
    collapse_error_decades: float = 7.2
    explosion_warning_decades: float = 4.8
    explosion_error_decades: float = 19.0
    small_rms: float = 1e-3
    large_rms: float = 1e3

    def check(self, recording: Recording) -> Verdict:
        """At most one finding, named signal-collapse or signal-explosion in its message."""
        if not recording.calls:
            return NotApplicable("no call of the model was recorded")
        layers = _layers(recording)
        if len(layers) < _LEAST_LAYERS:
            return _too_few(recording, layers)
        hidden = layers[:-1]
        last = hidden[-max(1, len(hidden) // 10) :]
        end = median_decades(math.log10(layer.rms) for layer in last)
        change = end - math.log10(hidden[0].rms)
        if end < math.log10(self.small_rms) and -change >= self.collapse_warning_decades:
            severity = Severity.ERROR if -change >= self.collapse_error_decades else Severity.WARNING
            return [self._finding(hidden, last[0], change, severity)]
        if end > math.log10(self.large_rms) and change >= self.explosion_warning_decades:
            severity = Severity.ERROR if change >= self.explosion_error_decades else Severity.WARNING
            return [self._finding(hidden, last[0], change, severity)]
        return []

    def _finding(self, hidden: Sequence[_Layer], end: _Layer, change: float, severity: Severity) -> Finding:
        has_collapsed = change < 0.0
        factor = 10 ** (change / (len(hidden) - 1))
        what = (
            "signal-collapse: the forward signal loses"
            if has_collapsed
            else "signal-explosion: the forward signal gains"
        )
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity,
            modules=distinct([end.call.module, hidden[0].call.module]),
            cause=(
                "Each layer returns less than it reads: the weights are too small for the activation and the depth."
                if has_collapsed
                else "Each layer returns more than it reads: the weights are too large for the activation and the depth, or "
                "shortcuts add up without a norm."
            ),
            message=(
                f"A {what} {abs(change):.1f} decades from the first of {counted(len(hidden), 'hidden layer')} to the last: "
                f"a factor of {factor:.3g} per layer."
            ),
            evidence={
                "change_decades": change,
                "abs_change_decades": abs(change),
                "num_hidden_layers": len(hidden),
                "factor_per_layer": factor,
                "first_rms": hidden[0].rms,
                "last_rms": hidden[-1].rms,
            },
            remedies=(
                "Initialise for the activation: He for ReLU, GELU and SiLU, Xavier for tanh (nn.init).",
                "Normalise between layers (nn.LayerNorm, nn.RMSNorm, nn.BatchNorm).",
                "Add shortcuts: x + block(x)."
                if has_collapsed
                else "Scale the branches of shortcuts down: by 1/sqrt(number of blocks), or start them at zero.",
            ),
            lines=() if end.line is None else (end.line,),
        )


def _too_few(recording: Recording, layers: Sequence[_Layer]) -> Verdict:
    """Nothing to find in so few layers, unless there are more whose signal nobody saw."""
    num_unseen = _num_unseen_matrices(recording)
    if not num_unseen or len(layers) + num_unseen < _LEAST_LAYERS:
        return []
    return NotApplicable(
        f"the signal was seen at {counted(len(layers), 'layer')}, and not where {num_unseen} more of the model's matrices are multiplied by: "
        "diagnose() with lines looks at functional code, too, where it multiplies by a parameter"
    )


def _num_unseen_matrices(recording: Recording) -> int:
    """How many that get a gradient belong to no call that is one layer, and to no product that was measured."""
    several = {info.name for info in recording.modules if info.type in _OF_SEVERAL_MATRICES}
    owned = Counter(layer_of(p.module) for p in recording.parameters if len(p.shape) > 1 and p.received_gradient)
    called = {call.module for call in leaf_calls(recording)}
    unseen = sum(count - (name in called) for name, count in owned.items() if name not in several)
    return max(0, unseen - len(functional_signals(recording)))


def _layers(recording: Recording) -> list[_Layer]:
    """In execution order. A call in which functional code multiplies several times is no layer itself: its products are."""
    products = functional_signals(recording)
    num_products = Counter(product.operation.depth for product in products)
    found = [
        (position_of_call(recording, layer.call) if products else (0, layer.call.depth), layer)
        for layer in _called_layers(recording)
        if num_products[layer.call.depth] < 2
    ]
    for product in products:
        operation = product.operation
        if operation.depth < 0 or (num_products[operation.depth] < 2 and not recording.children(operation.depth)):
            continue
        rms = max((value for value in (product.read_rms, product.made_rms) if value < math.inf), default=0.0)
        if rms > 0.0:
            layer = _Layer(recording.calls[operation.depth], rms, operation.line)
            found.append(((operation.index, operation.depth), layer))
    return [layer for _, layer in sorted(found, key=lambda pair: pair[0])]


def _called_layers(recording: Recording) -> list[_Layer]:
    owners = {layer_of(parameter.module) for parameter in recording.parameters}
    layers = []
    for call in leaf_calls(recording):
        if call.module not in owners:
            continue
        # The first of its inputs: an attention also reads a mask, of -1e9.
        read = next((signal.stats for signal in recording.select(SignalKind.INPUT, depth=call.depth)), None)
        made = recording.signal(SignalKind.ACTIVATION, call.depth)
        known = [stats.rms for stats in (read, made) if stats is not None and stats.finite_count]
        largest = max(known, default=0.0)
        if 0.0 < largest < math.inf:
            layers.append(_Layer(call, largest))
    return layers
