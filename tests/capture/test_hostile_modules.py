"""Modules that are more than a forward function: hooks, parametrizations, TorchScript, compiled, lazy, fused."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, prune

from headwater.capture import Problem, observe, record
from tests.capture.bit_identity import (
    Case,
    Scenario,
    assert_observe_leaves_no_trace,
    differences_under,
    forward_and_backward,
    forward_only,
    recording_of,
)
from tests.capture.signals import called, has, notes, signals, stats
from tests.capture.test_hostile_graphs import Lambda, batch, images
from tests.oracles.moments import assert_moments_match


def small_net() -> nn.Module:
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


# --- parametrizations ------------------------------------------------------------------------------------------------

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal by matrix exponential": lambda m: parametrizations.orthogonal(m, orthogonal_map="matrix_exp"),
    "orthogonal by Householder": lambda m: parametrizations.orthogonal(m, orthogonal_map="householder"),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    "old spectral norm": torch.nn.utils.spectral_norm,
}


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_parametrized_weight_is_recorded_under_the_names_of_its_originals(parametrization: str) -> None:
    def make() -> nn.Module:
        model = small_net()
        PARAMETRIZATIONS[parametrization](model[0])
        return model

    models: list[nn.Module] = []

    def step(case: Case) -> Any:
        models.append(case.model)
        return forward_and_backward(case)

    recording = recording_of(make, batch, step=step)
    names = [name for name, _ in models[-1].named_parameters()]
    assert [parameter.name for parameter in recording.parameters] == names
    for signal in recording.select("weight_gradient"):
        assert_moments_match(signal.stats, models[-1].get_parameter(signal.parameter).grad, rtol=1e-6)
    assert_observe_leaves_no_trace(Problem(make(), batch()))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_the_old_weight_norm_runs_the_same() -> None:
    def make() -> nn.Module:
        model = small_net()
        torch.nn.utils.weight_norm(model[0])
        return model

    recording = recording_of(make, batch)
    assert {"0.weight_g", "0.weight_v"} <= {signal.parameter for signal in recording.select("weight_gradient")}


def test_cached_parametrizations_run_the_same() -> None:
    def step(case: Case) -> Any:
        with torch.nn.utils.parametrize.cached():
            return forward_and_backward(case)

    recording_of(lambda: parametrizations.weight_norm(nn.Linear(4, 4)), batch, step=step)


# --- lazy modules ----------------------------------------------------------------------------------------------------


def lazy_net() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))


def test_lazy_modules_are_recorded_from_the_pass_that_gives_them_shapes() -> None:
    recording = recording_of(lazy_net, batch)
    assert all(parameter.initialized for parameter in recording.parameters)
    assert {s.parameter for s in recording.select("weight")} == {p.name for p in recording.parameters}
    assert {s.parameter for s in recording.select("weight_gradient")} == {p.name for p in recording.parameters}


def test_lazy_modules_that_never_ran_are_said_to_be_uninitialized() -> None:
    model = lazy_net()
    with record(model) as recorder:
        pass
    assert not any(parameter.initialized for parameter in recorder.recording.parameters[:2])


def test_observe_leaves_lazy_modules_lazy() -> None:
    model = lazy_net()
    recording = assert_observe_leaves_no_trace(Problem(model, batch()))
    assert model[0].has_uninitialized_params()
    assert has(recording, "weight_gradient", "0")


# --- TorchScript, fx, compile ----------------------------------------------------------------------------------------

SCRIPT_IS_DEPRECATED = pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:.*torch.jit.*:FutureWarning")


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
@pytest.mark.parametrize(
    "make", [make_compiled, make_compiled_and_run, make_compiled_in_place, make_of_compiled_parts]
)
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


# --- hooks of the user's own -----------------------------------------------------------------------------------------


def hooked(register: Callable[[nn.Module], Any]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        model = small_net()
        register(model)
        return model

    return make


USER_HOOKS: dict[str, Callable[[nn.Module], Any]] = {
    "forward": lambda m: m[0].register_forward_hook(lambda _m, _a, output: output * 3),
    "forward with kwargs": lambda m: m[0].register_forward_hook(lambda _m, _a, _k, output: output + 1, with_kwargs=True),
    "forward always": lambda m: m[0].register_forward_hook(lambda _m, _a, output: output - 1, always_call=True),
    "forward on the model": lambda m: m.register_forward_hook(lambda _m, _a, output: (output, None)),
    "forward that returns a dict": lambda m: m.register_forward_hook(lambda _m, _a, output: {"out": output}),
    "several forward": lambda m: [m[0].register_forward_hook(lambda _m, _a, o, f=f: o * f) for f in (2, 3, 5)],
    "forward pre": lambda m: m[2].register_forward_pre_hook(lambda _m, args: (args[0] * 2,)),
    "forward pre with kwargs": lambda m: m[2].register_forward_pre_hook(lambda _m, a, k: ((a[0] + 1,), k), with_kwargs=True),
    "full backward": lambda m: m[1].register_full_backward_hook(lambda _m, gradients, _o: (gradients[0] * 2,)),
    "full backward pre": lambda m: m[1].register_full_backward_pre_hook(lambda _m, gradients: (gradients[0] * 2,)),
    "full backward on the model": lambda m: m.register_full_backward_hook(lambda _m, gradients, _o: None),
    "parameter": lambda m: m[0].weight.register_hook(lambda gradient: gradient * 2),
    "post-accumulate": lambda m: m[0].weight.register_post_accumulate_grad_hook(_double_gradient),
    "removes itself": lambda m: _hook_once(m[0]),
    "state dict": lambda m: m.register_state_dict_post_hook(lambda *_: None),
}  # fmt: skip


def _double_gradient(parameter: Tensor) -> None:
    parameter.grad.mul_(2)


def _hook_once(module: nn.Module) -> None:
    def hook(_module: nn.Module, _args: Any, output: Tensor) -> Tensor:
        handle.remove()
        return output * 2

    handle = module.register_forward_hook(hook)


@pytest.mark.parametrize("kind", USER_HOOKS)
def test_the_users_hooks_work_as_before(kind: str) -> None:
    recording = recording_of(hooked(USER_HOOKS[kind]), batch)
    assert called(recording) == ["", "0", "1", "2"]
    assert has(recording, "activation_gradient", "0")
    assert has(recording, "weight_gradient", "0")


@pytest.mark.parametrize("kind", ["forward", "forward with kwargs", "forward always", "several forward"])
def test_an_output_that_a_hook_replaced_is_what_is_measured(kind: str) -> None:
    recording = recording_of(hooked(USER_HOOKS[kind]), batch)
    replaced = recording.select("activation", module="0")[0]
    read = recording.select("input", module="1")[0]
    assert replaced.tensor == read.tensor
    assert replaced.stats == read.stats


@pytest.mark.parametrize("kind", ["forward pre", "forward pre with kwargs"])
def test_an_input_that_a_hook_replaced_is_what_is_measured(kind: str) -> None:
    recording = recording_of(hooked(USER_HOOKS[kind]), batch)
    assert recording.select("input", module="2")[0].stats != recording.select("activation", module="1")[0].stats


def test_a_gradient_changed_by_a_parameter_hook_is_recorded_as_it_reaches_grad() -> None:
    models: list[nn.Module] = []

    def step(case: Case) -> Any:
        models.append(case.model)
        return forward_and_backward(case)

    recording = recording_of(hooked(USER_HOOKS["parameter"]), batch, step=step)
    assert_moments_match(stats(recording, "weight_gradient", "0", item="weight"), models[-1][0].weight.grad, rtol=1e-6)


@pytest.fixture
def global_hook() -> Iterator[list[str]]:
    seen: list[str] = []
    handle = torch.nn.modules.module.register_module_forward_hook(lambda m, _a, _o: seen.append(type(m).__name__))
    yield seen
    handle.remove()


def test_a_process_wide_hook_of_the_users_own_stays(global_hook: list[str]) -> None:
    model = small_net()
    with record(model):
        model(batch())
    during = len(global_hook)
    model(batch())
    assert during == len(global_hook) - during == 4


def test_a_hook_that_is_registered_while_recording_stays() -> None:
    model = small_net()
    with record(model):
        model[0].register_forward_hook(lambda _m, _a, output: output * 2)
        with_hook = model(torch.ones(1, 4))
    assert torch.equal(model(torch.ones(1, 4)), with_hook)
    assert len(model[0]._forward_hooks) == 1


def test_a_hook_that_raises_raises_the_same() -> None:
    def make() -> nn.Module:
        model = small_net()
        model[1].register_forward_hook(lambda *_: 1 / 0)
        return model

    model = make()
    with pytest.raises(ZeroDivisionError), record(model) as recorder:
        model(batch())
    finished = {call.module: call.finished for call in recorder.recording.calls}
    assert finished["0"]
    assert not finished[""]


# --- attention and transformers --------------------------------------------------------------------------------------


def encoder_layer() -> nn.Module:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def sequences() -> Tensor:
    return torch.randn(2, 3, 8, requires_grad=True)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("step", [forward_and_backward, forward_only])
def test_attention_runs_the_same_and_what_is_bypassed_is_named(training: bool, step: Any) -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: Tensor) -> Tensor:
            return self.attention(x, x, x)[0]

    recording = recording_of(lambda: Attention().train(training), sequences, step=step)
    assert "'attention.out_proj'" in notes(recording)
    if step is forward_and_backward:
        assert has(recording, "weight_gradient", "attention.out_proj")
        assert has(recording, "input_gradient", "attention") == has(recording, "activation_gradient", "")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_the_fused_path_of_a_transformer_layer_stays_the_fused_path(mode: Any) -> None:
    def step(case: Case) -> Any:
        with mode():
            return case.model(*case.args)

    recording = recording_of(lambda: encoder_layer().eval(), sequences, step=step)
    assert called(recording) == [""]
    assert "'linear1'" in notes(recording)


def test_a_transformer_layer_in_training_is_observed_inside() -> None:
    recording = recording_of(encoder_layer, sequences)
    assert {"linear1", "linear2", "norm1", "norm2", "dropout", "self_attn"} <= set(called(recording))


# --- modules with unusual habits -------------------------------------------------------------------------------------


def test_a_frozen_part_is_observed_without_weight_gradients() -> None:
    def make() -> nn.Module:
        model = small_net()
        model[0].requires_grad_(False)
        return model

    recording = recording_of(make, batch)
    assert not has(recording, "weight_gradient", "0")
    assert not has(recording, "activation_gradient", "0")
    assert has(recording, "activation_gradient", "2")
    assert [p.requires_grad for p in recording.parameters] == [False, False, True, True]


def test_a_parameter_that_thaws_while_recording_is_not_silently_lost() -> None:
    model = small_net().requires_grad_(False)
    with record(model) as recorder:
        model[2].requires_grad_(True)
        model(batch()).sum().backward()
    weight = next(p for p in recorder.recording.parameters if p.name == "2.weight")
    assert weight.received_gradient or "2.weight" in notes(recorder.recording)


def test_a_submodule_whose_forward_is_called_directly_is_named() -> None:
    recording = recording_of(lambda: Lambda(lambda layers, x: layers[0].forward(x), nn.Linear(4, 2)), batch)
    assert called(recording) == [""]
    assert "'layers.0'" in notes(recording)
    assert has(recording, "weight_gradient", "layers.0")


def test_an_unused_module_is_named() -> None:
    recording = recording_of(lambda: Lambda(lambda layers, x: layers[0](x), nn.Linear(4, 2), nn.Linear(4, 2)), batch)
    assert "'layers.1'" in notes(recording)
    assert [p.received_gradient for p in recording.parameters] == [True, True, False, False]


def test_a_module_that_returns_a_parameter_is_observed() -> None:
    class Constant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value = nn.Parameter(torch.randn(4))

        def forward(self) -> Tensor:
            return self.value

    recording = recording_of(lambda: Lambda(lambda layers, x: layers[0]() * x, Constant()), batch)
    assert_moments_match(
        stats(recording, "weight_gradient", "layers.0"), _gradient_of_constant(), rtol=1e-6
    )
    assert has(recording, "activation", "layers.0")


def _gradient_of_constant() -> Tensor:
    torch.manual_seed(0)
    value = torch.randn(4)
    x = batch()
    value.requires_grad_()
    slope = torch.linspace(-1.0, 2.0, 20, dtype=torch.float64).float()
    return torch.autograd.grad(((value * x).reshape(-1) * slope).sum(), value)[0]


def test_scalar_parameters_are_recorded() -> None:
    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.tensor(2.0))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), Scale()), batch)
    assert stats(recording, "weight_gradient", "1").numel == 1


def test_modules_that_return_what_they_got_are_observed() -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Identity(), nn.Dropout(0.5), nn.Identity()).eval(), batch
    )
    tensors = {s.tensor for s in recording.select("activation")}
    assert len(tensors) == 1
    assert len({s.stats for s in recording.select("activation_gradient")}) == 1
    assert len(recording.select("activation_gradient")) == 5


def test_a_model_that_returns_its_input_is_observed() -> None:
    recording = recording_of(nn.Identity, lambda: torch.randn(3, requires_grad=True))
    assert has(recording, "activation", "")


def test_a_module_that_changes_the_model_while_it_runs_is_survived_and_named() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        layers.append(nn.Linear(4, 4))
        return layers[1](layers[0](x))

    recording = recording_of(lambda: Lambda(forward, nn.Linear(4, 4)), batch)
    assert has(recording, "activation_gradient", "layers.0")
    assert "'layers.1'" in notes(recording)


def test_a_module_that_is_replaced_while_recording_is_survived() -> None:
    model = small_net()
    with record(model) as recorder:
        model(batch()).sum().backward()
        model[0] = nn.Linear(4, 6)
        model(batch()).sum().backward()
    assert called(recorder.recording).count("2") == 2
    assert "'0'" in notes(recorder.recording)


def test_a_parameter_that_is_replaced_while_recording_is_survived() -> None:
    model = small_net()
    with record(model) as recorder:
        model[0].weight = nn.Parameter(torch.ones(6, 4))
        model(batch()).sum().backward()
    recorded = next(p for p in recorder.recording.parameters if p.name == "0.weight")
    assert recorded.received_gradient or "0.weight" in notes(recorder.recording)


def test_modules_with_names_that_look_odd_are_recorded() -> None:
    recording = recording_of(_OddNames, batch)
    assert {"a b", "ünï", "0"} <= set(called(recording))


class _OddNames(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        for name in ("a b", "ünï", "0"):
            self.add_module(name, nn.Linear(4, 4))

    def forward(self, x: Tensor) -> Tensor:
        for module in self.children():
            x = module(x)
        return x


def test_one_module_under_two_names_is_recorded_under_the_first() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(4, 4)
            self.second = self.first

        def forward(self, x: Tensor) -> Tensor:
            return self.second(self.first(x))

    recording = recording_of(Twice, batch)
    assert called(recording) == ["", "first", "first"]


def test_a_module_that_calls_itself_is_seen_call_by_call() -> None:
    class Recursive(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor, times: int = 3) -> Tensor:
            return self(self.layer(x).tanh(), times - 1) if times else x

    recording = recording_of(Recursive, batch)
    assert called(recording) == ["", "layer", "", "layer", "", "layer", ""]
    assert [call.parent for call in recording.calls] == [-1, 0, 0, 2, 2, 4, 4]


def test_a_submodule_can_be_recorded_by_itself() -> None:
    model = nn.Sequential(small_net(), nn.Linear(2, 2))
    with record(model[0]) as recorder:
        model(batch()).sum().backward()
    assert called(recorder.recording) == ["", "0", "1", "2"]
    assert has(recorder.recording, "activation_gradient", "")


def test_a_model_of_batch_norms_keeps_its_statistics_after_observe() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3))
    assert_observe_leaves_no_trace(Problem(model, images()))
    assert_observe_leaves_no_trace(Problem(model.eval(), images()))


def test_observe_keeps_gradients_that_were_there() -> None:
    model = small_net()
    model(batch()).sum().backward()
    assert_observe_leaves_no_trace(Problem(model, batch()))


def test_observe_leaves_no_trace_on_a_model_that_writes_to_itself() -> None:
    class Writer(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)
            self.register_buffer("count", torch.zeros(()))
            self.register_buffer("later", None)
            self.mask = torch.zeros(4)
            self.history: list[Tensor] = []
            self.cache: dict[str, Any] = {"deep": {"er": [1]}}
            self.steps = 0

        def forward(self, x: Tensor) -> Tensor:
            self.count += 1
            self.later = x.detach().mean(0)
            self.mask[0] += 1
            self.history.append(x)
            self.cache["x"] = x
            self.cache["deep"]["er"].append(2)
            self.steps += 1
            self.extra = x
            with torch.no_grad():
                self.layer.weight.clamp_(-0.1, 0.1)
            self.train(not self.training)
            return self.layer(x) * self.mask

    assert_observe_leaves_no_trace(Problem(Writer(), batch()))


@pytest.mark.parametrize("failing", ["forward", "loss", "backward"])
def test_observe_leaves_no_trace_when_the_pass_fails(failing: str) -> None:
    class Fails(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm = nn.BatchNorm1d(4)
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(self.norm(x))
            if failing == "forward":
                raise RuntimeError("broken")
            if failing == "backward":
                x.register_hook(lambda _: 1 / 0)
            return x

    model = Fails()
    loss = (lambda _: torch.rand(2)) if failing == "loss" else (lambda output: output.pow(2).sum())
    problem = Problem(model, batch(), loss=loss)
    before = copy.deepcopy(model.state_dict())
    random_state = torch.get_rng_state()
    with pytest.raises(ValueError):
        observe(problem)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), random_state)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not torch.nn.modules.module._global_forward_hooks
    assert not torch.nn.modules.module._global_forward_pre_hooks
