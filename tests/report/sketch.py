"""Builds recordings by hand from the few numbers a report shows, without torch."""

from __future__ import annotations

import math

from headwater.findings import Finding, RuleVerdict, Severity
from headwater.recording import Context, Recording, RecordingBuilder, SignalKind, TensorStats


class Sketch:
    """A model drawn call by call, in execution order; modules are added when they are first named."""

    def __init__(self, model_type="Net"):
        self._builder = RecordingBuilder()
        self._model_type = model_type
        self._indices = {"": self._builder.add_module("", model_type, is_leaf=False)}

    def module(self, path, type="Linear"):
        """The index of a module, added with its containers if it is new."""
        if path not in self._indices:
            parent = path.rpartition(".")[0]
            above = self._indices[parent] if parent in self._indices else self.module(parent, "ModuleList")
            self._indices[path] = self._builder.add_module(path, type, parent=above)
        return self._indices[path]

    def call(
        self,
        path,
        type="Linear",
        *,
        inside=-1,
        shape=(4, 8),
        rms=1.0,
        gradient=1.0,
        weight=None,
        trains=True,
        finished=True,
    ):
        """One call; its depth. `gradient` and `weight` (mean absolute gradient) are None where none arrived."""
        module = self.module(path, type)
        depth = self._builder.add_call(module, parent=inside, finished=finished)
        self._add(module, SignalKind.ACTIVATION, stats(math.prod(shape), rms), depth, shape)
        if gradient is not None:
            size = math.prod(shape)
            self._add(module, SignalKind.ACTIVATION_GRADIENT, stats(size, gradient / math.sqrt(size)), depth, shape)
        if weight is not None or not trains:
            self.parameter(path, depth=depth, gradient=weight, trains=trains)
        return depth

    def parameter(self, path, *, depth=-1, gradient=None, trains=True):
        """A weight of eight by eight."""
        module = self.module(path)
        name = f"{path}.weight" if path else "weight"
        received = gradient is not None
        self._builder.add_parameter(module, name, shape=(8, 8), requires_grad=trains, received_gradient=received)
        if gradient is not None:
            kind = SignalKind.WEIGHT_GRADIENT
            self._builder.add_signal(module, kind, stats(64, gradient), depth=depth, item="weight", shape=(8, 8))

    def build(self, **context) -> Recording:
        """The recording."""
        return self._builder.build(Context(**{"cotangent": "loss", "model_type": self._model_type, **context}))

    def _add(self, module, kind, values, depth, shape):
        self._builder.add_signal(module, kind, values, depth=depth, shape=shape)


def stats(numel, value):
    """Statistics of a tensor of which every element is this value."""
    if math.isnan(value):
        return TensorStats(numel=numel, nan_count=numel)
    if math.isinf(value):
        return TensorStats(numel=numel, inf_count=numel)
    zeros = numel if value == 0 else 0
    return TensorStats(
        numel=numel,
        zero_count=zeros,
        sum=numel * value,
        sum_abs=numel * value,
        sum_squares=numel * value**2,
        max_abs=value,
    )


def chain(*gains_decades, types=("Linear", "Sigmoid")):
    """A plain network whose output's gradient has the norm 1 and whose layers have these gains."""
    sketch = Sketch("Sequential")
    root = sketch.call("", gradient=1.0)
    for index, gain in enumerate(gains_decades):
        kind = types[index % len(types)]
        weight = 10.0 ** (gain - 2) if kind == "Linear" else None
        sketch.call(str(index), kind, inside=root, gradient=10.0**gain, weight=weight)
    return sketch


def finding(code="HW101", *modules, severity=Severity.ERROR, **fields):
    """A finding that says what it was told to, or something."""
    return Finding(
        **{
            "code": code,
            "name": NAMES.get(code, "some-finding"),
            "severity": severity,
            "modules": modules,
            "cause": "What makes it so.",
            "message": f"What {code} has to say of '{modules[0] if modules else ''}'.",
            "evidence": {},
            "remedies": ("What helps most.", "What helps as well, if the first cannot be done."),
            **fields,
        }
    )


NAMES = {
    "HW101": "vanishing-gradient",
    "HW102": "exploding-gradient",
    "HW103": "zero-gradient",
    "HW104": "non-finite",
    "HW201": "dead-units",
    "HW401": "unreached-parameter",
}


def verdicts(*findings, not_applicable=()):
    """What all rules said, of which the ones not named found nothing."""
    by_code = {code: tuple(f for f in findings if f.code == code) for code in (*NAMES, *(f.code for f in findings))}
    reasons = dict(not_applicable)
    return tuple(
        RuleVerdict(code, NAMES.get(code, "some-finding"), found, reasons.get(code)) for code, found in by_code.items()
    )
