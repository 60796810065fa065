"""Everything a recorder could disturb, as plain values that compare bit for bit.

A snapshot is a flat dict from a readable path to a value. Two snapshots of identical states are equal even when the
states were built twice: identities of objects appear only as "the same as the n-th one seen", never as addresses.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import random
import types
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

Snapshot = dict[str, object]

_GLOBAL_FLAGS = {
    "grad mode": torch.is_grad_enabled,
    "inference mode": torch.is_inference_mode_enabled,
    "anomaly mode": torch.is_anomaly_enabled,
    "default dtype": torch.get_default_dtype,
    "cpu autocast": lambda: torch.is_autocast_enabled("cpu"),
    "deterministic": torch.are_deterministic_algorithms_enabled,
    "function modes": torch._C._len_torch_function_stack,
    "dispatch modes": torch._C._len_torch_dispatch_stack,
    "threads": torch.get_num_threads,
    "default saved-tensor hooks": lambda: torch._C._autograd._top_saved_tensors_default_hooks(True),
}
_MODULE_CLASS = ("__call__", "_call_impl", "_wrapped_call_impl", "__getattr__", "__setattr__", "register_module")
_TENSOR_CLASS = ("backward", "register_hook", "detach", "__torch_function__", "requires_grad_")


class Snapshotter:
    """Takes the snapshot of one run; remembers the objects it has met."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}
        self._storages: dict[int, int] = {}
        self._kept_alive: list[object] = []  # ids of the dead are reused

    def of(self, value: Any, path: str) -> Snapshot:
        """The snapshot of any nested value: tensors, modules, containers, objects."""
        return dict(self._walk(value, path))

    def _walk(self, value: Any, path: str) -> Iterator[tuple[str, object]]:
        if _is_plain(value):
            yield path, _plain(value)
            return
        known = self._seen.get(id(value))
        if known is not None:
            yield path, f"object {known} again"
            return
        self._kept_alive.append(value)
        self._seen[id(value)] = len(self._seen)
        yield from self._walk_object(value, path)

    def _walk_object(self, value: Any, path: str) -> Iterator[tuple[str, object]]:
        if isinstance(value, Tensor):
            yield from self._tensor(value, path)
        elif isinstance(value, nn.Module):
            yield (
                f"{path} type",
                [kind.__qualname__ for kind in type(value).__mro__],
            )  # parametrised ones get a new class
            yield from self._attributes(vars(value), path)
        elif isinstance(value, Mapping):
            yield f"{path} keys", (type(value), tuple(map(_key, value)))
            for key, item in value.items():
                yield from self._walk(item, f"{path}[{_key(key)}]")
        elif isinstance(value, tuple | list | collections.deque):
            yield f"{path} length", (type(value), len(value))
            for index, item in enumerate(value):
                yield from self._walk(item, f"{path}[{index}]")
        elif isinstance(value, np.ndarray):
            yield path, (value.dtype, value.shape, value.tobytes())
        else:
            yield from self._other(value, path)

    def _other(self, value: Any, path: str) -> Iterator[tuple[str, object]]:
        yield path, type(value)
        if isinstance(value, functools.partial):
            yield from self._walk(value.func, f"{path} function")
        elif dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield from self._walk(getattr(value, field.name), f"{path}.{field.name}")
        elif isinstance(getattr(value, "__dict__", None), dict) and not isinstance(value, torch.jit.ScriptFunction):
            yield from self._attributes(vars(value), path)

    def _attributes(self, attributes: dict[str, Any], path: str) -> Iterator[tuple[str, object]]:
        yield f"{path} attributes", tuple(attributes)
        for name, item in attributes.items():
            if "dynamo" in name:  # addresses, and the compiler's own notes
                continue
            yield from self._walk(item, f"{path}.{name}")

    def _tensor(self, tensor: Tensor, path: str) -> Iterator[tuple[str, object]]:
        yield f"{path} kind", (type(tensor), tensor.dtype, tensor.layout, tensor.device.type, tensor.requires_grad)
        yield f"{path} hooks", (len(tensor._backward_hooks or ()), len(_post_accumulate_hooks(tensor)))
        if is_lazy(tensor):
            return
        yield f"{path} shape", tuple(tensor.shape)
        # Whether autograd adds gradients up in place depends on who else holds them; their bits do not.
        if not tensor.is_inference() and not path.endswith(".grad"):
            yield f"{path} version", tensor._version
        yield f"{path} graph", (tensor.is_leaf, type(tensor.grad_fn).__name__, tensor.output_nr)
        yield f"{path} bits", tensor_bits(tensor)
        if tensor.layout is torch.strided and tensor.device.type == "cpu" and type(tensor) in (Tensor, nn.Parameter):
            storage = self._storages.setdefault(tensor.untyped_storage()._cdata, len(self._storages))
            yield f"{path} memory", (storage, tensor.stride(), tensor.storage_offset())
        yield f"{path} own attributes", tuple(getattr(tensor, "__dict__", ()))
        if tensor.is_leaf and tensor.grad is not None:
            yield from self._walk(tensor.grad, f"{path}.grad")


def tensor_bits(tensor: Tensor) -> object:
    """The bits of a tensor's values, whatever its dtype or layout; equal NaNs are equal."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        tensor = tensor.detach()
        if tensor.device.type == "meta" or type(tensor).__name__ == "FakeTensor":
            return "no values"
        if tensor.layout is torch.sparse_coo:
            return (tensor.is_coalesced(), tensor_bits(tensor._indices()), tensor_bits(tensor._values()))
        if tensor.layout is not torch.strided:
            return tensor_bits(tensor.to_dense())
        if tensor.is_quantized:
            tensor = tensor.int_repr()
        if hasattr(tensor, "unbind") and tensor.is_nested:
            return tuple(map(tensor_bits, tensor.unbind()))
        flat = tensor.resolve_conj().resolve_neg().contiguous().reshape(-1)
        return flat.view(torch.uint8).numpy().tobytes()


def random_states() -> Snapshot:
    """The states of the random generators a model may use."""
    state = np.random.get_state()
    return {
        "random state of torch": torch.get_rng_state().numpy().tobytes(),
        "random state of python": random.getstate(),
        "random state of numpy": tuple(part.tobytes() if isinstance(part, np.ndarray) else part for part in state),
    }


def process_state() -> Snapshot:
    """What is global to the process and could be left changed: hooks, modes, patched methods, the stance of compile."""
    snapshot: Snapshot = {f"process {name}": read() for name, read in _GLOBAL_FLAGS.items()}
    for name, value in vars(torch.nn.modules.module).items():
        if name.startswith("_global_"):
            snapshot[f"process {name}"] = tuple(value.items()) if isinstance(value, Mapping) else value
    for owner, names in ((nn.Module, _MODULE_CLASS), (Tensor, _TENSOR_CLASS), (torch.autograd, ("backward", "grad"))):
        for name in names:
            snapshot[f"process {owner.__name__}.{name}"] = getattr(owner, name, None)
    stance = torch._dynamo.eval_frame._stance if "eval_frame" in vars(getattr(torch, "_dynamo", object)) else None
    snapshot["process compile stance"] = stance and stance.stance
    return snapshot


def random_seed(seed: int) -> None:
    """Seeds every generator."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)


def _is_plain(value: Any) -> bool:
    return isinstance(
        value,
        int | float | complex | str | bytes | type | set | frozenset | range | slice | types.NoneType | types.ModuleType
        | types.FunctionType | types.BuiltinFunctionType | types.MethodType | torch.dtype | torch.device | torch.Size
        | torch.Generator | torch._C.ScriptModule,
    )  # fmt: skip


def _plain(value: Any) -> object:
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, types.FunctionType | types.BuiltinFunctionType | types.MethodType):
        return value.__qualname__
    if isinstance(value, torch.Generator):
        return value.get_state().numpy().tobytes()
    if isinstance(value, set | frozenset):
        return (type(value), len(value), *sorted(item for item in value if isinstance(item, str)))
    if isinstance(value, torch._C.ScriptModule):
        return type(value)
    return (type(value), value)


def _key(key: Any) -> str:
    # Hook dicts are keyed by a process-wide counter, which any second run has moved on.
    return "#" if isinstance(key, int) else str(key)


def _post_accumulate_hooks(tensor: Tensor) -> Mapping[int, object]:
    return getattr(tensor, "_post_accumulate_grad_hooks", None) or {}
