"""Runs a model twice from identical state, bare and observed, and lists every bit that differs.

`differences_under(observer, scenario)` is the check itself; `tests/capture/test_bit_identity.py` shows that it finds what
a careless recorder does.
"""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from headwater.capture import Problem, observe, record
from headwater.recording import Recording
from tests.capture.snapshots import Snapshot, Snapshotter, process_state, random_seed, random_states

Observer = Callable[[nn.Module], AbstractContextManager[Any]]


@dataclass(frozen=True, kw_only=True)
class Case:
    """A freshly built model with the arguments of its forward pass."""

    model: nn.Module
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


Step = Callable[[Case], Any]


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """How to build a case (called after seeding, so that every build is the same) and what to do with it."""

    build: Callable[[], Case]
    step: Step
    seed: int = 0


def tensors_in(value: Any) -> Iterable[Tensor]:
    """The tensors in a nested value, each once, in order."""
    found: dict[int, Tensor] = {}
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, Tensor):
            found[id(item)] = item
        elif isinstance(item, dict):
            stack.extend(reversed(item.values()))
        elif isinstance(item, tuple | list):
            stack.extend(reversed(item))
        elif hasattr(item, "__dataclass_fields__"):
            stack.extend(getattr(item, name) for name in reversed(item.__dataclass_fields__))
    return found.values()


def scalar_loss(output: Any) -> Tensor | None:
    """A scalar whose gradient differs from element to element of every differentiable tensor; None if there is none."""
    parts = []
    for tensor in tensors_in(output):
        if not tensor.requires_grad:
            continue
        values = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
        slope = torch.linspace(-1.0, 2.0, values.numel(), dtype=torch.float64).to(values.dtype)
        parts.append((values.reshape(-1) * slope).sum().double())
    return torch.stack(parts).sum() if parts else None


def forward_only(case: Case) -> Any:
    """The output."""
    return case.model(*case.args, **case.kwargs)


def forward_and_backward(case: Case) -> Any:
    """The output and the loss, after a backward pass where there is something to differentiate."""
    output = case.model(*case.args, **case.kwargs)
    loss = scalar_loss(output)
    if loss is not None:
        loss.backward()
    return output, loss


def run(scenario: Scenario, observer: Observer = lambda _: nullcontext()) -> tuple[Snapshot, Any]:
    """The state after one run (outputs, arguments, model, random states, process, warnings) and the observer's result."""
    random_seed(scenario.seed)
    case = scenario.build()
    random_seed(scenario.seed + 1)
    process_before = process_state()
    output, error, yielded = None, None, None
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.set_warn_always(True)  # else a second run is silent where the first one warned
        try:
            with observer(case.model) as yielded:
                output = scenario.step(case)
        except BaseException as raised:  # KeyboardInterrupt is one of the things that are tried
            error = raised
        finally:
            torch.set_warn_always(False)
    snapshotter = Snapshotter()
    state = {
        "error": None if error is None else "".join(traceback.format_exception_only(error)),
        "warnings": sorted(f"{w.category.__name__}: {w.message}" for w in caught),
        **random_states(),
        **_changes(process_before, process_state()),
        **snapshotter.of(case.args, "args"),
        **snapshotter.of(case.kwargs, "kwargs"),
        **snapshotter.of(output, "output"),
        **snapshotter.of(case.model, "model"),
    }
    return state, yielded


def differences(expected: Snapshot, found: Snapshot) -> list[str]:
    """One line per path that differs."""
    lines = [f"{path}: missing" for path in expected.keys() - found.keys()]
    lines += [f"{path}: new ({_short(found[path])})" for path in found.keys() - expected.keys()]
    lines += [
        f"{path}: {_short(expected[path])} became {_short(found[path])}"
        for path in expected.keys() & found.keys()
        if expected[path] != found[path]
    ]
    return sorted(lines)


def differences_under(observer: Observer, scenario: Scenario) -> tuple[list[str], Any]:
    """What an observer changes in a scenario, and what the observer's context manager yielded."""
    bare, _ = run(scenario)
    observed, yielded = run(scenario, observer)
    return differences(bare, observed), yielded


def assert_recording_changes_nothing(scenario: Scenario) -> Recording:
    """The recording of a scenario that ran the same to the last bit as without one.

    Raises:
        AssertionError: something differs; the message lists it.
    """
    found, recorder = differences_under(record, scenario)
    if found:
        random_itself, _ = differences_under(lambda _: nullcontext(), scenario)
        assert not random_itself, "two bare runs differ:\n" + "\n".join(random_itself[:30])
    assert not found, "recording changed:\n" + "\n".join(found[:30])
    return recorder.recording


def recording_of(
    make_model: Callable[[], nn.Module],
    *make_args: Callable[[], Any],
    step: Step = forward_and_backward,
    fully: bool = True,
) -> Recording:
    """As `assert_recording_changes_nothing`, of a model and the makers of its arguments (seeded before they run).

    Raises:
        AssertionError: something differs, the step itself raised, or, where it can be observed `fully`, the observation.
    """
    errors: list[str] = []

    def watched(case: Case) -> Any:
        try:
            return step(case)
        except BaseException:
            errors.append(traceback.format_exc())
            raise

    recording = assert_recording_changes_nothing(
        Scenario(build=lambda: Case(model=make_model(), args=tuple(make() for make in make_args)), step=watched)
    )
    assert not errors, f"the model itself fails:\n{errors[0]}"
    assert not (fully and any("A part of the pass" in note for note in recording.context.notes)), recording.context
    return recording


def assert_observe_leaves_no_trace(problem: Problem) -> Recording:
    """The recording of `observe(problem)`, after which model, arguments, generators and process are as they were.

    Only the version counter of a buffer that had to be put back has moved on.

    Raises:
        AssertionError: something differs; the message lists it.
    """
    before = _state_around(problem)
    recording = observe(problem)
    found = [line for line in differences(before, _state_around(problem)) if " version: " not in line]
    assert not found, "observe changed:\n" + "\n".join(found[:30])
    return recording


def _state_around(problem: Problem) -> Snapshot:
    snapshotter = Snapshotter()
    identities = {
        f"identity of {name}": (id(tensor), id(tensor.grad) if tensor.is_leaf else None)
        for name, tensor in (*problem.model.named_parameters(), *problem.model.named_buffers())
    }
    return {
        **identities,
        **random_states(),
        **process_state(),
        **snapshotter.of(problem.inputs, "inputs"),
        **snapshotter.of(problem.targets, "targets"),
        **snapshotter.of(problem.loss, "loss"),
        **snapshotter.of(problem.model, "model"),
    }


def _changes(before: Snapshot, after: Snapshot) -> Snapshot:
    return {f"{path} after": "unchanged" if before[path] == after.get(path) else after.get(path) for path in before}


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 100 else f"{text[:97]}..."
