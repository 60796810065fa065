"""What a whole diagnosis costs, with and without lines of code, relative to one forward and backward pass."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.gpt2 import TrainingStep
from benchmarks.table import Result
from benchmarks.timing import interleaved
from headwater import diagnose
from headwater.capture import cpu_moments

ROUNDS = 30


def run() -> list[Result]:
    """The table."""
    cpu_moments.load_fused_moments(at_once=True)
    step = TrainingStep()
    inputs = {"input_ids": step.tokens, "labels": step.tokens}
    variants: dict[str, Callable[[], object]] = {
        "one forward and backward pass": step.forward_backward,
        "diagnose(..., lines=False)": lambda: diagnose(step.model, inputs, lines=False),
        "diagnose(..., samples=0)": lambda: diagnose(step.model, inputs, samples=0),
        "diagnose(...)": lambda: diagnose(step.model, inputs),
    }
    timings = interleaved(variants, rounds=ROUNDS)
    rows = tuple(
        (t.name, f"{1e3 * t.seconds:.0f}", f"{t.ratio:.2f}", f"{t.lower:.2f} to {t.upper:.2f}") for t in timings
    )
    remark = (
        "Recording, every rule, nothing printed; the model is put back to what it was. Target without lines: 1.3. The default adds lines "
        "and the gradients of single samples, in passes of their own (more of them here, since dropout is on)."
    )
    title = f"A diagnosis of GPT-2 (8 layers, 256 wide, batch 8 x 64) with numba, {ROUNDS} rounds"
    return [Result("diagnose", title, ("what runs", "ms", "x the pass", "quartiles"), rows, (remark,))]
