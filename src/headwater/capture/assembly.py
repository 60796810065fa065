"""Turns what was observed into a recording: one transfer from each device, then plain numbers."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from headwater.capture.keys_of_modules import dicts_with_constant_keys
from headwater.capture.loops_over_layers import LeftOut, layers_left_out
from headwater.capture.moments import stats_from_vector
from headwater.capture.observations import Measured, ObservedCall, ObservedTensor
from headwater.capture.observer import PassObserver
from headwater.capture.operation_assembly import ObservedOperations
from headwater.capture.recurrent_outputs import DERIVATIVE_INSIDE
from headwater.capture.silent_modules import silent_modules
from headwater.capture.source_lines import is_from_a_library
from headwater.capture.spread import READ_SPREAD, SPREAD
from headwater.capture.weights import WatchedParameter, WeightWatcher
from headwater.recording import Combine, Context, Recording, RecordingBuilder, SignalKind, TensorStats

_LONGEST_CONFIG = 200
_GRADIENTS = (SignalKind.ACTIVATION_GRADIENT, SignalKind.INPUT_GRADIENT, SignalKind.WEIGHT_GRADIENT)


def assemble(
    model: nn.Module,
    observer: PassObserver,
    weights: WeightWatcher,
    operations: ObservedOperations | None,
    context: Context,
) -> Recording:
    """The recording of a finished observation."""
    return _Assembly(model, observer, weights, operations, context).build()


class _Assembly:
    def __init__(
        self,
        model: nn.Module,
        observer: PassObserver,
        weights: WeightWatcher,
        operations: ObservedOperations | None,
        context: Context,
    ) -> None:
        self._model = model
        self._named_modules = list(model.named_modules())
        self._observer = observer
        self._weights = weights
        self._operations = operations
        self._context = context
        self._builder = RecordingBuilder()
        self._tensor_numbers: dict[ObservedTensor, int] = {}
        self._module_indices: dict[int, int] = {}
        self._index_by_name: dict[str, int] = {}
        self._depths: dict[ObservedCall, int] = {}
        self._moved = _moved_to_host(_device_vectors(observer, weights, operations))

    def build(self) -> Recording:
        self._add_modules()
        depths = self._add_calls()
        self._add_weights(depths)
        if self._operations is not None:
            indices = self._operations.add_to(
                self._builder,
                self._depths,
                self._tensor_numbers,
                self._gradient_stats,
                lambda call: self._module_indices[id(call.module)],
            )
            owners = {id(w.parameter): (self._index_by_name[w.owner], w.name) for w in self._weights.parameters}
            self._operations.add_readers(self._builder, indices, owners)
            unreached = {id(w.parameter) for w in self._weights.parameters if _is_unreached(w)}
            self._operations.add_cuts(self._builder, {leaf: owners[leaf] for leaf in owners if leaf in unreached})
            self._operations.add_left_out(self._builder, self._left_out(), self._index_by_name)
        for (caller, kind), count in self._observer.unregistered.num_parameters(self._model).items():
            module = self._module_indices.get(caller, 0)
            self._builder.add_series(
                "num_unregistered_parameters", [count], module=module, item=kind, combine=Combine.MAXIMUM
            )
        self._add_facts()
        devices = sorted({str(watched.parameter.device) for watched in self._weights.parameters})
        return self._builder.build(
            replace(
                self._context,
                cotangent=self._context.cotangent if self._saw_gradients() else "none",
                devices=tuple(devices),
                model_type=type(self._model).__name__,
                notes=(
                    *self._context.notes,
                    *self._observer.notes,
                    *silent_modules(self._named_modules, self._observer),
                ),
            )
        )

    def _left_out(self) -> list[LeftOut]:
        """Entries of lists that loops in the model's code leave out, if a parameter gets nothing."""
        if not any(map(_is_unreached, self._weights.parameters)):
            return []
        return layers_left_out(self._model, self._silent())

    def _silent(self) -> set[str]:
        called = {id(call.module) for call in self._observer.calls}
        return {name for name, module in self._named_modules if id(module) not in called}

    def _add_facts(self) -> None:
        """What rules ask about the model's code: whether it differentiates itself, and, where a parameter gets nothing, whose it is."""
        if self._observer.gradients.model_differentiates:
            self._builder.add_series("differentiates_itself", [1.0], combine=Combine.MAXIMUM)
        if not any(map(_is_unreached, self._weights.parameters)):
            return
        for _, module in self._named_modules:
            if is_from_a_library(type(module)):
                index = self._module_indices[id(module)]
                self._builder.add_series("is_from_a_library", [1.0], module=index, combine=Combine.MAXIMUM)
        for name in dicts_with_constant_keys(self._model, self._silent()):
            index = self._index_by_name[name]
            self._builder.add_series("has_constant_keys", [1.0], module=index, combine=Combine.MAXIMUM)

    def _add_modules(self) -> None:
        for name, module in self._named_modules:
            index = self._builder.add_module(
                name,
                type(module).__name__,
                parent=self._index_by_name[name.rpartition(".")[0]] if name else -1,
                training=module.training,
                is_leaf=not any(child is not None for child in module._modules.values()),
                config=_config(module),
            )
            self._index_by_name[name] = self._module_indices[id(module)] = index

    def _add_calls(self) -> dict[int, int]:
        """Adds calls with their signals; returns the depth of each module's first call."""
        depths = self._depths
        first_depths: dict[int, int] = {}
        for call in self._observer.calls:
            module = self._module_indices.get(id(call.module))
            if module is None:  # taken out of the model during the pass
                continue
            depth = self._builder.add_call(
                module,
                parent=depths.get(call.parent, -1) if call.parent is not None else -1,
                grad_enabled=call.grad_enabled,
                input_requires_grad=call.input_requires_grad,
                output_requires_grad=call.output_requires_grad,
                output_is_floating=call.output_is_floating,
                finished=call.finished,
            )
            depths[call] = depth
            first_depths.setdefault(module, depth)
            self._add_signals(call, module, depth)
        return first_depths

    def _add_signals(self, call: ObservedCall, module: int, depth: int) -> None:
        for read in call.inputs:
            self._add(module, depth, SignalKind.INPUT, read.path, read.tensor, [read.tensor.stats])
            self._add(module, depth, SignalKind.INPUT_GRADIENT, read.path, read.tensor, read.gradients)
        for path, tensor in call.outputs:
            self._add(module, depth, SignalKind.ACTIVATION, path, tensor, [tensor.stats])
            self._add(module, depth, SignalKind.ACTIVATION_GRADIENT, path, tensor, tensor.gradients)
        for name, spread in ((SPREAD, call.spread), (READ_SPREAD, call.read_spread)):
            if spread is not None:
                self._builder.add_series(name, [spread], module=module, depth=depth, combine=Combine.MAXIMUM)
        for layer, values in call.inside.items():
            self._builder.add_series(
                DERIVATIVE_INSIDE, values.tolist(), module=module, depth=depth, item=layer, combine=Combine.SUM
            )
        if call.units is not None:
            minimum, maximum, num_samples = call.units
            self._builder.add_units(depth, num_samples, minimum.double().tolist(), maximum.double().tolist())

    def _add(
        self,
        module: int,
        depth: int,
        kind: SignalKind,
        item: str,
        tensor: ObservedTensor,
        measured: Iterable[Measured | None],
    ) -> None:
        stats = self._merged(kind, measured)
        if stats is None:
            return
        number = self._tensor_numbers.get(tensor)
        self._tensor_numbers[tensor] = self._builder.add_signal(
            module, kind, stats, depth=depth, item=item, shape=tensor.shape, dtype=tensor.dtype, tensor=number
        )

    def _add_weights(self, first_depths: dict[int, int]) -> None:
        for watched in self._weights.parameters:
            parameter = watched.parameter
            owner = self._index_by_name[watched.owner]
            initialized = not is_lazy(parameter)
            shape = tuple(parameter.shape) if initialized else ()
            dtype = str(parameter.dtype).removeprefix("torch.")
            self._builder.add_parameter(
                owner,
                watched.name,
                shape=shape,
                dtype=dtype,
                requires_grad=parameter.requires_grad,
                received_gradient=watched.received_gradient,
                initialized=initialized,
            )
            number: int | None = None
            for kind, measured in (
                (SignalKind.WEIGHT, [watched.weight]),
                (SignalKind.WEIGHT_GRADIENT, watched.gradients),
            ):
                stats = self._merged(kind, measured)
                if stats is not None:
                    number = self._builder.add_signal(
                        owner,
                        kind,
                        stats,
                        depth=first_depths.get(owner, -1),
                        item=watched.name.rpartition(".")[2],
                        shape=shape,
                        dtype=dtype,
                        tensor=number,
                    )

    def _gradient_stats(self, moments: Measured) -> TensorStats:
        stats = self._moved[moments] if isinstance(moments, Tensor) else moments
        return stats.scaled_by_power_of_two(-self._context.backward_scale_exponent)

    def _merged(self, kind: SignalKind, measured: Iterable[Measured | None]) -> TensorStats | None:
        """One statistic of all passes; None where nothing was measured."""
        merged: TensorStats | None = None
        for moments in measured:
            if moments is None:
                continue
            stats = self._moved[moments] if isinstance(moments, Tensor) else moments
            merged = stats if merged is None else merged.merge(stats)
        if merged is not None and kind in _GRADIENTS:
            return merged.scaled_by_power_of_two(-self._context.backward_scale_exponent)
        return merged

    def _saw_gradients(self) -> bool:
        return any(watched.received_gradient for watched in self._weights.parameters) or any(
            tensor.gradients for call in self._observer.calls for _, tensor in call.outputs
        )


def _config(module: nn.Module) -> str:
    """What the module says of its settings, where it has no children; a user's module may say too much or fail."""
    if module._modules:
        return ""
    try:
        return str(module.extra_repr())[:_LONGEST_CONFIG].encode(errors="replace").decode()
    except Exception:  # noqa: BLE001 - of somebody else's module, and nothing depends on it
        return ""


def _device_vectors(
    observer: PassObserver, weights: WeightWatcher, operations: ObservedOperations | None
) -> Iterator[Tensor]:
    """Every vector of moments that is still on its device."""
    for call in observer.calls:
        tensors = [read.tensor for read in call.inputs] + [tensor for _, tensor in call.outputs]
        for tensor in tensors:
            yield from (m for m in (tensor.stats, *tensor.gradients) if isinstance(m, Tensor))
        for read in call.inputs:
            yield from (m for m in read.gradients if isinstance(m, Tensor))
    for watched in weights.parameters:
        yield from (m for m in (watched.weight, *watched.gradients) if isinstance(m, Tensor))
    if operations is not None:
        yield from (m for m in operations.measured() if isinstance(m, Tensor))


def _moved_to_host(vectors: Iterator[Tensor]) -> dict[Tensor, TensorStats]:
    """The statistics of each vector (tensors hash by identity), moved together per device."""
    by_device: dict[torch.device, dict[Tensor, None]] = {}
    for vector in vectors:
        by_device.setdefault(vector.device, {})[vector] = None
    moved: dict[Tensor, TensorStats] = {}
    for group in by_device.values():
        rows = torch.stack(list(group)).tolist()
        moved.update((vector, stats_from_vector(row)) for vector, row in zip(group, rows, strict=True))
    return moved


def _is_unreached(watched: WatchedParameter) -> bool:
    return watched.parameter.requires_grad and not watched.received_gradient
