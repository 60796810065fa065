"""What recording everything adds to a training step, beside what other tools add for less."""

from __future__ import annotations

import importlib.util
import os
import tempfile
import warnings
from collections.abc import Callable
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from benchmarks.gpt2 import TrainingStep
from benchmarks.table import Result
from benchmarks.timing import interleaved
from headwater.capture import cpu_moments, record

ROUNDS = 30


def run() -> list[Result]:
    """The table for the CPU, and one for the GPU where there is one."""
    results = [_measure("cpu", "capture")]
    if torch.cuda.is_available():
        results.append(_measure("cuda", "capture-gpu"))
    return results


def _measure(device: str, name: str) -> Result:
    step = TrainingStep(device)
    with ExitStack() as stack:
        variants: dict[str, Callable[[], object]] = {"bare step": step.bare}
        if device == "cpu" and cpu_moments.load_fused_moments(at_once=True):
            variants["headwater.record, everything (with numba)"] = lambda: _recorded(step)
            variants["headwater.record, everything (without numba)"] = lambda: _recorded_without_numba(step)
        else:
            variants["headwater.record, everything"] = lambda: _recorded(step)
        variants["hooks with .item(): one number per module and parameter"] = lambda: _item_hooks(step)
        missing = []
        for label, module, make in _PEERS:
            if importlib.util.find_spec(module) is None:
                missing.append(label)
            else:
                variants[label] = make(step, stack)
        with warnings.catch_warnings():  # of the hooks that other tools register, once per step
            warnings.filterwarnings("ignore", message="Full backward hook is firing")
            timings = interleaved(variants, rounds=ROUNDS)
    rows = tuple(
        (t.name, f"{1e3 * t.seconds:.0f}", f"{t.ratio:.2f}", f"{t.lower:.2f} to {t.upper:.2f}") for t in timings
    )
    remarks = [
        "Everything: activations, inputs, both gradients, weights and weight gradients, all moments. Target: 1.15."
    ]
    if missing:
        remarks.append(f"Not installed, so not measured: {', '.join(missing)}.")
    title = f"One training step of GPT-2 (8 layers, 256 wide, batch 8 x 64, AdamW), {device}, {ROUNDS} rounds"
    return Result(name, title, ("what runs", "ms", "x bare step", "quartiles"), rows, tuple(remarks))


def _recorded(step: TrainingStep) -> None:
    with record(step.model):
        step.forward_backward()
    step.finish()


def _recorded_without_numba(step: TrainingStep) -> None:
    with cpu_moments.fused_moments_unloaded():
        _recorded(step)


def _item_hooks(step: TrainingStep) -> None:
    seen: list[float] = []

    def look(_module: Any, _inputs: Any, output: Any) -> None:
        tensor = output[0] if isinstance(output, tuple) else output
        if isinstance(tensor, torch.Tensor):
            seen.append(tensor.detach().abs().mean().item())

    handles = [module.register_forward_hook(look) for module in step.model.modules()]
    try:
        step.forward_backward()
    finally:
        for handle in handles:
            handle.remove()
    seen.extend(p.grad.abs().mean().item() for p in step.model.parameters() if p.grad is not None)
    step.finish()


def _tensorboard(step: TrainingStep, stack: ExitStack) -> Callable[[], object]:
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(stack.enter_context(tempfile.TemporaryDirectory()))
    stack.callback(writer.close)
    steps = iter(range(1 << 30))

    def run() -> None:
        step.forward_backward()
        number = next(steps)
        for name, parameter in step.model.named_parameters():
            writer.add_histogram(name, parameter.grad, number)
        step.finish()

    return run


def _wandb(step: TrainingStep, stack: ExitStack) -> Callable[[], object]:
    os.environ["WANDB_MODE"], os.environ["WANDB_SILENT"] = "offline", "true"
    import wandb

    session = wandb.init(project="benchmark", dir=stack.enter_context(tempfile.TemporaryDirectory()))
    stack.callback(session.finish)

    def run() -> None:
        session.watch(step.model, log="gradients", log_freq=1)
        try:
            loss = step.forward_backward()
            session.log({"loss": loss.item()})
        finally:
            session.unwatch(step.model)
        step.finish()

    return run


def _torchmortem(step: TrainingStep, stack: ExitStack) -> Callable[[], object]:
    from torchmortem import Autopsy

    del stack

    @contextmanager
    def autopsy() -> Any:
        with Autopsy(step.model, optimizer=step.optimizer) as examined:
            yield examined

    def run() -> None:
        with autopsy() as examined:
            loss = step.forward_backward()
            step.finish()
            examined.step(loss=loss.item())

    return run


_PEERS: tuple[tuple[str, str, Callable[[TrainingStep, ExitStack], Callable[[], object]]], ...] = (
    ("TensorBoard histograms of the weight gradients", "tensorboard", _tensorboard),
    ("wandb.watch (gradients, offline, every step)", "wandb", _wandb),
    ("torchmortem", "torchmortem", _torchmortem),
)
