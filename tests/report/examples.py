"""The documents that golden files show."""

from __future__ import annotations

import math

from headwater.analysis import depth_profile
from headwater.findings import Severity
from headwater.report import document
from tests.report.sketch import Sketch, chain, finding, verdicts

NO_RECTIFIER = ("HW201", "no rectifier module (nn.ReLU, nn.ReLU6) was called")


def document_of(recording, *findings, not_applicable=()):
    return document(recording, verdicts(*findings, not_applicable=not_applicable), depth_profile(recording))


def vanishing():
    """41 layers that lose 0.4 decades each: folded, with one finding."""
    recording = chain(*(-0.425 * (40 - index) for index in range(41))).build(loss=2.36)
    found = finding(
        "HW101",
        "0",
        message="The gradient loses 17.0 decades on its way from the output to the first of 21 layers.",
        cause="20 Sigmoid calls cost 12.3, 20 Linear calls cost 4.7 of the 17.0 decades to the first layer.",
        remedies=(
            "Replace Sigmoid by ReLU, GELU or SiLU in the hidden layers.",
            "Add shortcuts around blocks whose input and output shapes match: x + block(x).",
            "Initialise for the activation: nn.init.kaiming_normal_(weight, nonlinearity='relu') for ReLU and its kin.",
        ),
    )
    return document_of(recording, found, not_applicable=[NO_RECTIFIER])


def exploding():
    """Growth to the right of the axis, nothing folded."""
    recording = chain(*(1.5 * (6 - index) for index in range(7)), types=("Linear", "ReLU")).build(cotangent="random")
    message = "The gradient grows by 9.0 decades on its way from the output to the first of 4 layers."
    return document_of(recording, finding("HW102", "0", message=message, cause="The weights are too large."))


def transformer(num_blocks=12):
    """A healthy decoder: nested blocks that repeat, growth and loss in one table."""
    sketch = Sketch("GPT")
    root = sketch.call("", shape=(4, 32, 500), rms=0.164, gradient=0.0897)
    body = sketch.call("transformer", "GPTModel", inside=root, shape=(4, 32, 64), rms=0.996, gradient=0.0142)
    sketch.call(
        "transformer.wte", "Embedding", inside=body, shape=(4, 32, 64), rms=0.02, gradient=0.509, weight=2.06e-3
    )
    for index in range(num_blocks):
        size = 0.47 - 0.006 * index
        path = f"transformer.h.{index}"
        block = sketch.call(path, "Block", inside=body, shape=(4, 32, 64), rms=0.0306, gradient=size)
        sketch.call(f"{path}.ln_1", "LayerNorm", inside=block, shape=(4, 32, 64), gradient=size / 400, weight=1e-4)
        attention = sketch.call(f"{path}.attn", "Attention", inside=block, shape=(4, 32, 64), rms=2e-3, gradient=size)
        for name, loss in (("query_key_value", 70), ("out", 0.95)):
            sketch.call(
                f"{path}.attn.{name}", inside=attention, shape=(4, 32, 64), gradient=size / loss, weight=2e-4 / loss
            )
        sketch.call(f"{path}.mlp", "MLP", inside=block, shape=(4, 32, 64), rms=0.0055, gradient=size, weight=3.9e-3)
    sketch.call("transformer.ln_f", "LayerNorm", inside=body, shape=(4, 32, 64), gradient=0.0142, weight=1.5e-3)
    sketch.call("lm_head", inside=root, shape=(4, 32, 500), rms=0.162, gradient=0.0897)
    return document_of(sketch.build(loss=6.22), not_applicable=[NO_RECTIFIER])


def troubled():
    """One of everything: frozen, without a gradient, zero, NaN, reused, stopped, never called; and what follows."""
    sketch = Sketch("Hourglass")
    root = sketch.call("", gradient=0.137)
    encoder = sketch.call("encoder", "Sequential", inside=root, gradient=None)
    sketch.call("encoder.0", inside=encoder, gradient=None, trains=False)
    sketch.call("encoder.act", "Tanh", inside=encoder, gradient=None)
    sketch.call("encoder.1", inside=encoder, gradient=None, trains=True)
    sketch.parameter("encoder.1")
    sketch.call("zero", inside=root, gradient=0.0, weight=0.0)
    sketch.call("act", "ReLU", inside=root, gradient=0.1)
    sketch.call("act", "ReLU", inside=root, gradient=0.12)
    sketch.call("sqrt", "Sqrt", inside=root, rms=0.3, gradient=math.nan)
    sketch.call("huge", "Exp", inside=root, rms=math.inf, gradient=1.3e-4)
    sketch.call("stopped", "Block", inside=root, gradient=None, finished=False)
    sketch.call("attention", "MultiheadAttention", inside=root, gradient=0.137, weight=5e-3)
    sketch.module("attention.out_proj", "NonDynamicallyQuantizableLinear")
    sketch.parameter("attention.out_proj", gradient=3.3e-4)
    sketch.parameter("unused")
    return document_of(
        sketch.build(loss=math.nan, notes=("Never called as a module in this recording: 'unused'.",)),
        finding("HW104", "sqrt", message="The gradient that 'sqrt' (Sqrt) sends to its input is the first NaN."),
        *(
            finding(
                "HW201",
                "act",
                severity=Severity.WARNING,
                message=f"{count} of 64 units of 'act' (ReLU) are off for all 64 samples, in its call {count}.",
                cause="The pre-activations are negative for every sample.",
                remedies=("Use a rectifier with a slope on both sides: nn.LeakyReLU, nn.GELU, nn.SiLU.",),
            )
            for count in range(1, 9)
        ),
        finding("HW401", "encoder.1", severity=Severity.WARNING, message="'encoder.1.weight' gets no gradient."),
        finding("HW401", "unused", severity=Severity.INFO, message="'unused.weight' gets no gradient.", remedies=()),
        not_applicable=[("HW101", "not every gradient is finite"), ("HW102", "not every gradient is finite")],
    )


def forward_only():
    """No backward pass: no columns for gradients."""
    sketch = Sketch("Sequential")
    root = sketch.call("", gradient=None)
    for index in range(3):
        sketch.call(str(index), inside=root, gradient=None, rms=0.5**index)
    reason = "no backward pass was recorded: call backward() inside record(), or use diagnose()"
    skipped = [(code, reason) for code in ("HW101", "HW102", "HW103", "HW401")]
    return document_of(sketch.build(cotangent="none"), not_applicable=[*skipped, NO_RECTIFIER])
