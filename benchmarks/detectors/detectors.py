"""The detectors: Headwater, and other tools' published rules in a few lines of our own, on the same pass.

Their kinds of fault are translated to the codes that mean the same.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from benchmarks.detectors.case import Subject
from headwater import ProblemError, Severity, diagnose
from headwater.capture.structure import named_tensors

VANISHING, EXPLODING = {"HW101"}, {"HW102", "HW203"}
DEAD, NOT_A_NUMBER, ZERO = {"HW201", "HW103"}, {"HW104"}, {"HW103", "HW401"}
SATURATED, STALLED, OVERSIZED = {"HW202"}, {"HW301"}, {"HW303"}


@dataclass
class Answer:
    """Codes that a detector raises, and the modules it names."""

    codes: set[str] = field(default_factory=set)
    modules: set[str] = field(default_factory=set)

    def add(self, codes: set[str], module: str = "") -> None:
        """One alarm."""
        self.codes |= codes
        self.modules.add(module)


def headwater(subject: Subject) -> Answer:
    """Findings at warning or above."""
    answer = Answer()
    try:
        diagnosis = diagnose(
            subject.model,
            subject.inputs,
            subject.targets,
            loss=subject.loss,
            optimizer=subject.optimizer,
            **subject.options,
        )
    except ProblemError:
        return answer
    for finding in diagnosis.findings:
        if finding.severity >= Severity.WARNING:
            answer.codes.add(finding.code)
            answer.modules.update(finding.modules)
    return answer


@dataclass
class _Pass:
    """What the other tools look at: outputs of leaf modules, weights with their gradients, the loss."""

    outputs: list[tuple[str, nn.Module, Tensor]]
    weights: list[tuple[str, Tensor, Tensor]]
    loss: float


def _run(subject: Subject) -> _Pass | None:
    outputs: list[tuple[str, nn.Module, Tensor]] = []

    def keep(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, _: object, output: object) -> None:
            if isinstance(output, Tensor):
                outputs.append((name, module, output.detach()))

        return hook

    leaves = [(name, module) for name, module in subject.model.named_modules() if not list(module.children())]
    handles = [module.register_forward_hook(keep(name)) for name, module in leaves]
    subject.model.zero_grad()
    try:
        inputs = subject.inputs
        output = (
            subject.model(**inputs)
            if isinstance(inputs, dict)
            else subject.model(*inputs)
            if isinstance(inputs, tuple)
            else subject.model(inputs)
        )
        loss = _loss(subject, output)
        if loss.requires_grad:
            loss.backward()
    except RuntimeError:  # a loss that refuses NaN
        return None
    finally:
        for handle in handles:
            handle.remove()
    weights = [
        (name.rpartition(".")[0], parameter.detach(), parameter.grad)
        for name, parameter in subject.model.named_parameters()
        if parameter.dim() > 1 and parameter.grad is not None
    ]
    return _Pass(outputs, weights, float(loss.detach()))


def _loss(subject: Subject, output: object) -> Tensor:
    if subject.loss is not None:
        return subject.loss(output) if subject.targets is None else subject.loss(output, subject.targets)
    found = getattr(output, "loss", None)
    if isinstance(found, Tensor):
        return found
    tensor = next(tensor for _, tensor in named_tensors(output) if tensor.requires_grad)
    generator = torch.Generator().manual_seed(0)
    return (tensor * torch.randn(tensor.shape, generator=generator)).sum()


def sagemaker_debugger(subject: Subject) -> Answer:
    """VanishingGradient: mean |g| < 1e-7; DeadRelu: unit active in less than 1 % of the samples, half of them; NaN loss."""
    answer, seen = Answer(), _run(subject)
    if seen is None:
        return answer
    for name, _, gradient in seen.weights:
        if gradient.abs().mean() < 1e-7:
            answer.add(VANISHING, name)
        if not torch.isfinite(gradient).all():
            answer.add(NOT_A_NUMBER, name)
    for name, module, output in seen.outputs:
        if isinstance(module, nn.ReLU) and output.dim() > 1:
            active = (output > 0).float().flatten(1).mean(0)
            if (active < 0.01).float().mean() > 0.5:
                answer.add(DEAD, name)
        if isinstance(module, nn.Tanh) and (output.abs() > 0.9999).float().mean() > 0.5:
            answer.add(SATURATED, name)
        if not torch.isfinite(output).all():
            answer.add(NOT_A_NUMBER, name)
    return answer


def auto_trainer(subject: Subject) -> Answer:
    """Zhang et al. 2021: ||g_1|| / ||g_L|| < 1e-3 and ||g_1|| < 1e-4; any ||g|| > 70; >= 70 % zero gradients; NaN."""
    answer, seen = Answer(), _run(subject)
    if seen is None or not seen.weights:
        return answer
    norms = [gradient.norm() for _, _, gradient in seen.weights]
    if norms[0] / norms[-1] < 1e-3 and norms[0] < 1e-4:
        answer.add(VANISHING, seen.weights[0][0])
    for (name, _, gradient), norm in zip(seen.weights, norms, strict=True):
        if norm > 70:
            answer.add(EXPLODING, name)
        if not torch.isfinite(norm):
            answer.add(NOT_A_NUMBER, name)
        has_rectifier = any(isinstance(module, nn.ReLU) for _, module, _ in seen.outputs)
        if has_rectifier and (gradient == 0).float().mean() >= 0.7:
            answer.add(DEAD, name)
    return answer


def the_deep_checker(subject: Subject) -> Answer:
    """Ben Braiek & Khomh 2023: mean |g| below 1e-7 or above 1e2, saturation beyond +-0.95 of the range, dead units, NaN."""
    answer, seen = Answer(), _run(subject)
    if seen is None:
        return answer
    for name, _, gradient in seen.weights:
        size = gradient.abs().mean()
        if size < 1e-7:
            answer.add(VANISHING, name)
        if size > 1e2:
            answer.add(EXPLODING, name)
        if not torch.isfinite(gradient).all():
            answer.add(NOT_A_NUMBER, name)
    for name, module, output in seen.outputs:
        if isinstance(module, nn.ReLU) and output.dim() > 1:
            dead = (output.flatten(1) == 0).all(0).float().mean()
            if dead > 0.5:
                answer.add(DEAD, name)
        centred = 2 * output - 1 if isinstance(module, nn.Sigmoid) else output
        if isinstance(module, nn.Sigmoid | nn.Tanh) and (centred.abs() > 0.95).float().mean() > 0.5:
            answer.add(SATURATED, name)
    return answer


def torchmortem(subject: Subject) -> Answer:
    """The package itself: one pass inside of its context manager."""
    from torchmortem import Autopsy

    optimizer = subject.optimizer or torch.optim.SGD(subject.model.parameters(), lr=0.0)
    answer = Answer()
    with Autopsy(subject.model, optimizer=optimizer) as examined:
        seen = _run(subject)
        examined.step(loss=float("nan") if seen is None else seen.loss)
    report = examined.get_report()
    for finding in () if report is None else report.findings:
        if finding.severity.name != "INFO":
            text = f"{finding.category} {finding.title} {finding.summary}".lower()
            codes = next((codes for word, codes in _TORCHMORTEM if word in text), {finding.detector})
            answer.codes |= codes
            answer.modules.update(finding.affected_layers)
    return answer


_TORCHMORTEM: tuple[tuple[str, set[str]], ...] = (
    ("vanish", VANISHING),
    ("explo", EXPLODING),
    ("dead", DEAD),
    ("nan", NOT_A_NUMBER),
    ("satur", SATURATED),
    ("rank", {"HW204"}),
    ("update", STALLED | OVERSIZED),
    ("nois", {"HW106"}),
)
DETECTORS: dict[str, Callable[[Subject], Answer]] = {
    "headwater": headwater,
    "SageMaker Debugger's rules": sagemaker_debugger,
    "AutoTrainer's rules": auto_trainer,
    "TheDeepChecker's rules": the_deep_checker,
}
if importlib.util.find_spec("torchmortem") is not None:
    DETECTORS["torchmortem"] = torchmortem
