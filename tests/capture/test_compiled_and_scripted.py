"""TorchScript, fx and torch.compile."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from headwater.capture import Problem, record
from tests.capture.bit_identity import (
    Case,
    Scenario,
    assert_observe_leaves_no_trace,
    differences_under,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import batch, small_net
from tests.capture.signals import called, has, notes

SCRIPT_IS_DEPRECATED = pytest.mark.filterwarnings(
    "ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning"
)


def scripted() -> nn.Module:
    model = torch.jit.script(small_net())
    for _ in range(3):  # its first runs are profiled and optimised
        model(torch.ones(5, 4)).sum().backward()
    model.zero_grad()
    return model


def traced() -> nn.Module:
    return torch.jit.trace(small_net(), torch.ones(2, 4))


@SCRIPT_IS_DEPRECATED
@pytest.mark.parametrize("make", [scripted, traced])
def test_a_script_module_is_observed_from_outside_and_its_inside_is_reported(make: Callable[[], nn.Module]) -> None:
    recording = recording_of(make, batch)
    assert called(recording) == [""]
    assert has(recording, "activation_gradient", "")
    assert len(recording.select("weight_gradient")) == 4
    assert "ScriptModule" in notes(recording)
    assert "'0'" in notes(recording)


@SCRIPT_IS_DEPRECATED
@pytest.mark.parametrize("make", [scripted, traced])
def test_a_script_module_inside_a_model_is_observed(make: Callable[[], nn.Module]) -> None:
    recording = recording_of(lambda: nn.Sequential(make(), nn.Linear(2, 2)), batch)
    assert called(recording) == ["", "0", "1"]
    assert has(recording, "activation_gradient", "0")
    assert "'0.0'" in notes(recording)


@SCRIPT_IS_DEPRECATED
def test_observe_leaves_no_trace_on_a_script_module() -> None:
    assert_observe_leaves_no_trace(Problem(scripted(), batch()))


def test_a_traced_fx_graph_module_is_observed() -> None:
    assert called(recording_of(lambda: torch.fx.symbolic_trace(small_net()), batch)) == ["", "0", "1", "2"]


def make_compiled() -> nn.Module:
    torch._dynamo.reset()
    return torch.compile(small_net(), backend="eager")


def make_compiled_and_run() -> nn.Module:
    model = make_compiled()
    model(torch.ones(5, 4)).sum().backward()
    model.zero_grad()
    return model


def make_compiled_in_place() -> nn.Module:
    torch._dynamo.reset()
    model = small_net()
    model.compile(backend="eager")
    return model


def make_of_compiled_parts() -> nn.Module:
    torch._dynamo.reset()
    return nn.Sequential(torch.compile(nn.Linear(4, 6), backend="eager"), nn.Tanh(), nn.Linear(6, 2))


# Dynamo looks at `.grad` of tensors that have none, and warns about it.
COMPILED = pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")


@COMPILED
@pytest.mark.parametrize("make", [make_compiled, make_compiled_and_run, make_compiled_in_place, make_of_compiled_parts])
def test_a_compiled_model_is_observed_call_by_call(make: Callable[[], nn.Module]) -> None:
    def build() -> Case:
        model = make()
        torch.manual_seed(1)
        return Case(model=model, args=(batch(),))

    found, recorder = differences_under(record, Scenario(build=build, step=forward_and_backward))
    # A compiled function marks the parameters it has read; it does not run in a recording.
    assert [line for line in found if " own attributes: " not in line] == []
    names = [name.replace("._orig_mod", "") for name in called(recorder.recording)]
    assert list(dict.fromkeys(names)) == ["", "0", "1", "2"]
    assert len(recorder.recording.select("weight_gradient")) == 4


def test_a_warning_filter_that_is_set_while_recording_stays() -> None:
    import torch._dynamo

    with warnings.catch_warnings():
        with record(small_net()):
            warnings.filterwarnings("ignore", message="set while recording")
        warnings.warn("set while recording", UserWarning, stacklevel=1)
        assert not any("global hooks" in str(entry[1]) for entry in warnings.filters)
    assert torch._dynamo


@COMPILED
def test_a_compiled_model_runs_compiled_again_after_the_recording() -> None:
    torch._dynamo.reset()
    graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, _: Any) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            graphs.append(1)
            return graph(*args)

        return run

    model = torch.compile(small_net(), backend=backend)
    model(batch())
    runs = len(graphs)
    with record(model):
        model(batch())
    model(batch())
    assert len(graphs) == 2 * runs


@SCRIPT_IS_DEPRECATED
def test_tracing_inside_a_recording_gives_the_same_graph_and_is_named() -> None:
    model = small_net()
    expected = torch.jit.trace(model, torch.ones(2, 4)).code
    with record(model) as recorder:
        traced_inside = torch.jit.trace(model, torch.ones(2, 4))
        model(batch()).sum().backward()
    assert traced_inside.code == expected
    assert "torch.jit.trace" in notes(recorder.recording)
    assert has(recorder.recording, "weight_gradient", "0")


def test_exporting_inside_a_recording_gives_the_same_graph() -> None:
    model = small_net()
    expected = torch.export.export(model, (torch.ones(2, 4),)).graph_module.code
    with record(model):
        exported = torch.export.export(model, (torch.ones(2, 4),))
    assert exported.graph_module.code == expected
