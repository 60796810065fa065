"""The user's own modes, tensor subclasses and saved-tensor hooks do not see the recorder."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.capture.bit_identity import (
    Case,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import batch
from tests.capture.signals import has


def test_saved_tensor_hooks_of_the_user_do_not_see_the_recorder() -> None:
    packed: list[list[torch.Size]] = []

    def step(case: Case) -> Any:
        packed.append([])

        def pack(tensor: Tensor) -> Tensor:
            packed[-1].append(tensor.shape)
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            return forward_and_backward(case)

    recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)
    assert packed[0] == packed[1]


def test_anomaly_mode_works_while_recording() -> None:
    def step(case: Case) -> Any:
        with torch.autograd.set_detect_anomaly(True):
            return forward_and_backward(case)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()), batch, step=step)
    assert has(recording, "weight_gradient", "0")


class Tagged(Tensor):
    """A tensor subclass that counts the functions called on it."""

    functions: list[str] = []  # noqa: RUF012

    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        cls.functions.append(getattr(function, "__name__", str(function)))
        return super().__torch_function__(function, types, args, kwargs or {})


def test_a_tensor_subclass_does_not_notice_the_recorder() -> None:
    counts: list[list[str]] = []

    def step(case: Case) -> Any:
        Tagged.functions.clear()
        output = case.model(case.args[0].as_subclass(Tagged))
        output.sum().backward()
        counts.append(list(Tagged.functions))
        return output

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert has(recording, "activation_gradient", "0")
    assert counts[0] == counts[1]


def test_a_dispatch_mode_of_the_user_does_not_see_the_recorder() -> None:
    from torch.utils.flop_counter import FlopCounterMode

    counts: list[Any] = []

    def step(case: Case) -> Any:
        with FlopCounterMode(display=False) as counter:
            output = forward_and_backward(case)
        counts.append(counter.get_flop_counts())
        return output

    recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), batch, step=step)
    assert counts[0] == counts[1]


def test_a_dispatch_mode_that_logs_sees_the_same_operations() -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    class Logging(TorchDispatchMode):
        def __init__(self) -> None:
            super().__init__()
            self.operations: list[str] = []

        def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.operations.append(str(function))
            return function(*args, **(kwargs or {}))

    logs: list[list[str]] = []

    def step(case: Case) -> Any:
        with Logging() as mode:
            output = forward_and_backward(case)
        logs.append(mode.operations)
        return output

    recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(inplace=True), nn.Linear(3, 2)), batch, step=step)
    assert logs[0] == logs[1]


def test_a_function_mode_of_the_user_does_not_see_the_recorder() -> None:
    from torch.overrides import TorchFunctionMode

    class Logging(TorchFunctionMode):
        def __init__(self) -> None:
            self.functions: list[str] = []

        def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            self.functions.append(getattr(function, "__name__", str(function)))
            return function(*args, **(kwargs or {}))

    logs: list[list[str]] = []

    def step(case: Case) -> Any:
        with Logging() as mode:
            output = forward_and_backward(case)
        logs.append(mode.functions)
        return output

    recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), batch, step=step)
    assert logs[0] == logs[1]
