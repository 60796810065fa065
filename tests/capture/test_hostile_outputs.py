"""Outputs and inputs of every structure, dtype and size."""

from __future__ import annotations

import collections
import copy
import dataclasses
import io
import pickle
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from headwater.capture import Problem, observe, record
from tests.capture.bit_identity import Case, assert_observe_leaves_no_trace, forward_and_backward, recording_of
from tests.capture.signals import called, has, notes, signals, stats
from tests.capture.test_hostile_graphs import Lambda, batch
from tests.oracles.moments import assert_moments_match


@dataclasses.dataclass
class Result:
    logits: Tensor
    hidden: list[Tensor]
    loss: Tensor | None = None
    name: str = "result"


@dataclasses.dataclass(frozen=True)
class FrozenResult:
    logits: Tensor


class Pair(NamedTuple):
    left: Tensor
    right: Tensor | None


class Mapped(collections.OrderedDict):
    """A mapping of a type of its own."""


STRUCTURES: dict[str, tuple[Callable[[Tensor], Any], set[str]]] = {
    "tuple": (lambda x: (x, x * 2), {"0", "1"}),
    "list": (lambda x: [x], {"0"}),
    "dict": (lambda x: {"a": x, "b": x * 2}, {"a", "b"}),
    "dict with numbers for keys": (lambda x: {0: x, (1, 2): x * 2}, {"0", "(1, 2)"}),
    "own mapping": (lambda x: Mapped(a=x), {"a"}),
    "named tuple": (lambda x: Pair(x, None), {"left", "0"}),
    "dataclass": (lambda x: Result(x, [x * 2]), {"logits", "hidden.0"}),
    "frozen dataclass": (FrozenResult, {"logits"}),
    "nested": (lambda x: (x, {"deep": [None, (x * 2,)]}, 3, "text"), {"0", "1.deep.1.0"}),
    "the same tensor twice": (lambda x: (x, x), {"0", "1"}),
    "with a scalar": (lambda x: (x, x.sum()), {"0", "1"}),
    "with integers": (lambda x: (x, x.argmax(-1)), {"0", "1"}),
    "with booleans": (lambda x: (x, x > 0), {"0", "1"}),
    "with a detached one": (lambda x: (x, x.detach()), {"0", "1"}),
    "with an empty one": (lambda x: (x, x[:0]), {"0", "1"}),
    "complex": (lambda x: torch.complex(x, x * 2), {""}),
    "conjugated": (lambda x: torch.complex(x, x * 2).conj(), {""}),
    "sparse": (lambda x: x.to_sparse(), {""}),
    "named dimensions": (lambda x: x.t().contiguous().t(), {""}),
}  # fmt: skip


@pytest.mark.parametrize("structure", STRUCTURES)
def test_every_structure_of_outputs_is_observed(structure: str) -> None:
    make_output, items = STRUCTURES[structure]

    def step(case: Case) -> Any:
        if structure != "sparse":
            return forward_and_backward(case)
        output = case.model(*case.args)
        output.to_dense().sum().backward()
        return output

    recording = recording_of(lambda: Lambda(lambda layers, x: make_output(layers[0](x)), nn.Linear(4, 3)), batch, step=step)
    found = {signal.item for signal in recording.select("activation", depth=0)}
    assert found <= items
    assert found, notes(recording)
    assert has(recording, "activation_gradient", "layers.0")
    assert has(recording, "activation_gradient", "")


@pytest.mark.parametrize("nothing", [None, (), {}, [], "text", 3, {"a": None}], ids=repr)
def test_a_module_that_returns_no_tensor_is_a_call_without_an_activation(nothing: Any) -> None:
    recording = recording_of(lambda: Lambda(lambda layers, x: (layers[0](x), layers[1](x))[0], nn.Linear(4, 2), Lambda(lambda _, x: nothing)), batch)
    assert not has(recording, "activation", "layers.1")
    assert "layers.1" in called(recording)


class Box:
    """A type that nobody knows, with a tensor inside."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_an_output_of_an_unknown_type_is_named() -> None:
    recording = recording_of(
        lambda: Lambda(lambda layers, x: layers[1](layers[0](x)).tensor, nn.Linear(4, 2), Lambda(lambda _, x: Box(x))), batch
    )
    assert "Box" in notes(recording)
    assert has(recording, "activation_gradient", "layers.0")


def test_a_generator_that_is_returned_is_left_unread() -> None:
    recording = recording_of(
        lambda: Lambda(lambda layers, x: sum(layers[1](layers[0](x))), nn.Linear(4, 2), Lambda(lambda _, x: (x * i for i in range(3)))),
        batch,
    )
    assert "generator" in notes(recording)


def test_a_structure_that_contains_itself_ends() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Any:
        loop: list[Any] = [layers[0](x)]
        loop.append(loop)
        return loop

    model = Lambda(forward, nn.Linear(4, 2))
    with record(model) as recorder:
        model(batch())[0].sum().backward()
    assert has(recorder.recording, "activation_gradient", "layers.0")


# --- sequences -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_packed_sequences_are_observed(kind: Any, bidirectional: bool) -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        packed = pack_padded_sequence(layers[0](x), torch.tensor([5, 3, 2]), batch_first=True)
        output, _ = layers[1](packed)
        assert isinstance(output, PackedSequence)
        return layers[2](pad_packed_sequence(output, batch_first=True)[0])

    def make() -> nn.Module:
        width = 6 if bidirectional else 3
        recurrent = kind(4, 3, num_layers=2, batch_first=True, bidirectional=bidirectional)
        return Lambda(forward, nn.Linear(4, 4), recurrent, nn.Linear(width, 1))

    recording = recording_of(make, lambda: torch.randn(3, 5, 4))
    assert has(recording, "activation_gradient", "layers.1")
    assert has(recording, "input_gradient", "layers.1")
    assert len(recording.select("weight_gradient", module="layers.1")) == (16 if bidirectional else 8)


def test_cells_that_run_step_by_step_are_numbered() -> None:
    def forward(layers: nn.ModuleList, x: Tensor) -> Tensor:
        state = (x.new_zeros(2, 3), x.new_zeros(2, 3))
        for column in x.unbind(1):
            state = layers[0](column, state)
        return state[0]

    recording = recording_of(lambda: Lambda(forward, nn.LSTMCell(4, 3)), lambda: torch.randn(2, 5, 4))
    assert [call.call for call in recording.calls if call.module == "layers.0"] == list(range(5))
    assert all(has(recording, "activation_gradient", "layers.0", call) for call in range(5))


def test_nested_tensors_are_survived_and_named_or_measured() -> None:
    model = nn.Linear(4, 2)
    with record(model) as recorder:
        nested = torch.nested.nested_tensor([torch.randn(2, 4), torch.randn(3, 4)], layout=torch.jagged)
        output = model(nested)
        output.values().sum().backward()
    assert has(recorder.recording, "activation", "") or notes(recorder.recording)
    assert has(recorder.recording, "weight_gradient", "")


# --- dtypes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_models_of_every_floating_dtype_are_observed(dtype: torch.dtype) -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.GELU(), nn.Linear(4, 2)).to(dtype),
        lambda: torch.randn(5, 4).to(dtype),
    )
    assert {signal.dtype for signal in recording} == {str(dtype).removeprefix("torch.")}
    assert len(recording.select("weight_gradient")) == 6


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_complex_models_are_observed() -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)).to(torch.complex64),
        lambda: torch.randn(5, 4, dtype=torch.complex64),
    )
    assert {signal.dtype for signal in recording} == {"complex64"}
    assert has(recording, "activation_gradient", "0")


def test_autocast_is_observed_in_the_dtype_that_it_chose() -> None:
    def step(case: Case) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return forward_and_backward(case)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), nn.GELU(), nn.Linear(4, 2)), batch, step=step)
    assert {signal.dtype for signal in recording.select("activation", module="0")} == {"bfloat16"}
    assert {signal.dtype for signal in recording.select("weight_gradient")} == {"float32"}


def test_an_embedding_with_sparse_gradients_is_observed() -> None:
    def make() -> nn.Module:
        return nn.Sequential(nn.Embedding(50, 4, sparse=True), nn.Linear(4, 2))

    models: list[nn.Module] = []

    def step(case: Case) -> Any:
        models.append(case.model)
        return forward_and_backward(case)

    recording = recording_of(make, lambda: torch.randint(0, 50, (3, 5)), step=step)
    gradient = models[-1][0].weight.grad
    assert gradient.is_sparse
    assert_moments_match(stats(recording, "weight_gradient", "0"), gradient, rtol=1e-6)


@pytest.mark.parametrize("mode", ["sum", "mean", "max"])
def test_an_embedding_bag_is_observed(mode: str) -> None:
    recording = recording_of(lambda: nn.EmbeddingBag(20, 4, mode=mode), lambda: torch.randint(0, 20, (3, 5)))
    assert has(recording, "weight_gradient", "")


def test_a_quantised_model_is_survived() -> None:
    class Quantising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.quantize_per_tensor(x, 0.1, 0, torch.qint8)

    class Dequantising(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.dequantize()

    def step(case: Case) -> Any:
        with torch.no_grad():
            return case.model(*case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 4), Quantising(), Dequantising()), batch, step=step)
    assert has(recording, "activation", "1") or notes(recording)
    assert has(recording, "activation", "2")


# --- sizes and layouts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(0, 4), (3, 0, 4), (1, 4)], ids=str)
def test_empty_batches_are_observed(shape: tuple[int, ...]) -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), lambda: torch.randn(shape))
    assert stats(recording, "activation", "0").numel == torch.Size(shape).numel() // 4 * 3


@pytest.mark.filterwarnings("ignore:Initializing zero-element tensors is a no-op")
def test_layers_without_units_are_observed() -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 0), nn.ReLU(), nn.Linear(0, 2)), batch)
    assert stats(recording, "weight_gradient", "0", item="weight").numel == 0
    assert stats(recording, "activation", "1").numel == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda: torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last),
        lambda: torch.randn(2, 8, 8, 3).permute(0, 3, 1, 2),
        lambda: torch.randn(1, 3, 8, 8).expand(2, -1, -1, -1),
        lambda: torch.randn(4, 3, 16, 16)[::2, :, ::2, 1::2],
        lambda: torch.randn(2, 3, 8, 8).flip(1),
    ],
    ids=["channels last", "permuted", "expanded", "strided", "flipped"],
)
def test_every_memory_layout_of_an_input_is_observed(make: Callable[[], Tensor]) -> None:
    recording = recording_of(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)), make)
    torch.manual_seed(0)
    nn.Conv2d(3, 4, 3)
    assert_moments_match(stats(recording, "input", "0"), make(), rtol=1e-6)


def test_values_that_are_not_finite_are_recorded_where_they_first_appear() -> None:
    class Divides(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x / torch.zeros(3)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), Divides(), nn.Linear(3, 2)), batch)
    assert stats(recording, "activation", "0").nonfinite_count == 0
    assert stats(recording, "activation", "1").inf_count == 15
    assert stats(recording, "activation", "2").nonfinite_count == 10


# --- tensors without values ------------------------------------------------------------------------------------------


def test_a_model_on_the_meta_device_is_observed_without_values_and_that_is_said() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
    with record(model) as recorder:
        model(torch.ones(2, 4, device="meta")).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]
    assert "no values" in notes(recorder.recording)


def test_fake_tensors_are_observed_without_values_and_that_is_said() -> None:
    with FakeTensorMode():
        model = nn.Sequential(nn.Linear(4, 3), nn.ReLU())
        with record(model) as recorder:
            model(torch.ones(2, 4)).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]
    assert "no values" in notes(recorder.recording)


# --- functional transforms -------------------------------------------------------------------------------------------


def test_torch_func_grad_over_the_model_is_survived_and_named() -> None:
    def step(case: Case) -> Any:
        parameters = dict(case.model.named_parameters())

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(case.model, parameters, (x,)).pow(2).sum()

        return torch.func.grad(loss)(parameters, *case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert called(recording) == ["", "0", "1"]
    assert "torch.func" in notes(recording)


def test_per_sample_gradients_by_vmap_are_survived_and_named() -> None:
    def step(case: Case) -> Any:
        parameters = {name: p.detach() for name, p in case.model.named_parameters()}

        def loss(parameters: dict[str, Tensor], x: Tensor) -> Tensor:
            return torch.func.functional_call(case.model, parameters, (x[None],)).pow(2).sum()

        return torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, *case.args)

    recording = recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)
    assert "torch.func" in notes(recording)


def test_vmap_over_the_model_is_survived_and_named() -> None:
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        batch,
        step=lambda case: torch.func.vmap(case.model)(*case.args).sum().backward(),
    )
    assert "torch.func" in notes(recording)
    assert has(recording, "weight_gradient", "0")


@pytest.mark.parametrize("transform", [torch.func.jacrev, torch.func.jacfwd, torch.func.hessian])
def test_jacobians_of_the_model_are_survived_and_named(transform: Any) -> None:
    with warnings.catch_warnings():  # what torch.func itself imports when it is first used
        warnings.simplefilter("ignore")
        transform(nn.Tanh())(torch.ones(2))
    recording = recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()),
        lambda: torch.randn(4),
        step=lambda case: transform(case.model)(*case.args),
    )
    assert "torch.func" in notes(recording)


def test_forward_mode_differentiation_runs_the_same() -> None:
    def step(case: Case) -> Any:
        with torch.autograd.forward_ad.dual_level():
            dual = torch.autograd.forward_ad.make_dual(case.args[0], torch.ones_like(case.args[0]))
            return torch.autograd.forward_ad.unpack_dual(case.model(dual)).tangent

    recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)


# --- subclasses and modes of the user's own --------------------------------------------------------------------------


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


# --- copies of outputs and models ------------------------------------------------------------------------------------


def test_outputs_can_be_copied_and_pickled_during_and_after_a_recording() -> None:
    def step(case: Case) -> Any:
        output = case.model(*case.args)
        detached = output.detach()
        copies = (copy.deepcopy(detached), copy.copy(output), pickle.loads(pickle.dumps(detached)))
        output.sum().backward()
        return copies, copy.deepcopy(case.args[0])

    recording_of(
        lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), lambda: torch.randn(5, 4, requires_grad=True), step=step
    )


def test_outputs_can_be_saved_during_a_recording() -> None:
    def step(case: Case) -> Any:
        file = io.BytesIO()
        output = case.model(*case.args)
        torch.save(output, file)
        file.seek(0)
        return torch.load(file)

    recording_of(lambda: nn.Sequential(nn.Linear(4, 3), nn.Tanh()), batch, step=step)


def test_a_model_can_be_copied_and_pickled_during_a_recording() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.Tanh())
    with record(model) as recorder:
        model(batch()).sum().backward()
        copies = [copy.deepcopy(model), pickle.loads(pickle.dumps(model))]
        for copied in copies:
            copied(batch()).sum().backward()
    assert called(recorder.recording) == ["", "0", "1"]
    for copied in [*copies, copy.deepcopy(model), pickle.loads(pickle.dumps(model))]:
        assert copied(batch()).shape == (5, 3)
        assert not copied[0]._forward_hooks


def test_a_model_can_be_copied_in_the_middle_of_its_forward() -> None:
    class CopiesItself(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(x)
            copied = copy.deepcopy(self)
            return x + copied.layer(x.detach()).detach()

    assert called(recording_of(CopiesItself, batch)) == ["", "layer"]


def test_observe_takes_inputs_of_every_structure() -> None:
    model = Lambda(lambda layers, x, extra: layers[0](x) + extra["bias"], nn.Linear(4, 3))
    extra = {"bias": torch.ones(3, requires_grad=True), "unused": None}
    recording = assert_observe_leaves_no_trace(Problem(model, (batch(), extra)))
    assert recording.context.cotangent == "random"
    assert extra["bias"].grad is None


def test_observe_gives_the_same_recording_twice() -> None:
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3)), batch()
    torch.manual_seed(3)
    first = observe(Problem(model, x), seed=5)
    assert signals(first) == signals(observe(Problem(model, x), seed=5))
    assert signals(first, "activation_gradient") != signals(observe(Problem(model, x), seed=6), "activation_gradient")
