"""Every use of a private or undocumented torch function, one function each, so that a torch release breaks one file."""

from __future__ import annotations

import functools
import re
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from types import FrameType
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks
from torch.utils.hooks import RemovableHandle

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def backward_is_running() -> bool:
    """Whether this thread is inside a backward pass (a forward seen then is a checkpoint's second run)."""
    return torch._C._current_graph_task_id() != -1


def remove_hook(handle: RemovableHandle) -> None:
    """Removes a hook of any kind; a process-wide forward hook's own handle leaves its mark "with kwargs" behind."""
    handle.remove()
    torch.nn.modules.module._global_forward_hooks_with_kwargs.pop(handle.id, None)


def trace_is_running() -> bool:
    """Whether `torch.jit.trace` is at work: whatever is done to a tensor now becomes part of its graph."""
    return torch._C._get_tracing_state() is not None


_globals_of_calls = vars(torch.nn.modules.module)


def frame_of_call() -> FrameType | None:
    """The frame in which torch runs the module whose hook is asking: alive exactly as long as the module's call."""
    frame = sys._getframe(1)
    while frame is not None and frame.f_globals is not _globals_of_calls:
        frame = frame.f_back
    return frame


_functorch: Any = torch._C._functorch  # pyright: ignore[reportAttributeAccessIssue]
# Whether the tensor is a vmap or grad transform's wrapper, whose values cannot be read. Asked of every tensor: no frame more.
is_functorch_wrapper: Callable[[Tensor], bool] = _functorch.is_functorch_wrapped_tensor


def is_fake(tensor: Tensor) -> bool:
    """Whether the tensor has a shape but no values (FakeTensor)."""
    fake_tensor = sys.modules.get("torch._subclasses.fake_tensor")
    return fake_tensor is not None and isinstance(tensor, fake_tensor.FakeTensor)


def is_script_module(module: nn.Module) -> bool:
    """Whether TorchScript runs the module: its children are not called through Python."""
    return isinstance(module, torch.jit.ScriptModule)


def uncompiled(module: nn.Module) -> nn.Module:
    """The module that `torch.compile` wrapped, or the module itself."""
    return getattr(module, "_orig_mod", module) if type(module).__name__ == "OptimizedModule" else module


class _EagerStance:
    """The stance of the compiler belongs to the process: the first recorder sets it and the last one puts it back."""

    lock = threading.Lock()
    num_users = 0
    exit = ExitStack()


@contextmanager
def compiled_code_runs_eagerly() -> Iterator[None]:
    """Inside, compiled functions run their original Python, so that module hooks fire.

    Hooks that come after the first compiled run are silently ignored otherwise.
    """
    if "torch._dynamo" not in sys.modules:  # nothing can have been compiled; importing dynamo takes a second
        yield
        return
    with _EagerStance.lock:
        if not _EagerStance.num_users:
            _EagerStance.exit.enter_context(torch.compiler.set_stance("force_eager"))
        _EagerStance.num_users += 1
    try:
        # The wrapper that torch.compile made says that our hooks fire for it too. They do, and do not mind.
        with ignored_warning("Using `torch.compile.* when there are global hooks"):
            yield
    finally:
        with _EagerStance.lock:
            _EagerStance.num_users -= 1
            if not _EagerStance.num_users:
                _EagerStance.exit.close()


@contextmanager
def ignored_warning(message: str) -> Iterator[None]:
    """As `warnings.catch_warnings` with one filter, but filters that the user adds meanwhile stay."""
    entry = ("ignore", re.compile(message, re.IGNORECASE), UserWarning, None, 0)
    warnings.filters.insert(0, entry)  # type: ignore[attr-defined]
    warnings._filters_mutated()  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if entry in warnings.filters:
            warnings.filters.remove(entry)  # type: ignore[attr-defined]
            warnings._filters_mutated()  # type: ignore[attr-defined]


# How many TorchDispatchModes (a FLOP counter, say), which would see our operations, the user runs under.
num_dispatch_modes: Callable[[], int] = torch._C._len_torch_dispatch_stack


@contextmanager
def without_dispatch_modes() -> Iterator[None]:
    """Inside, the user's dispatch modes see nothing."""
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():
        yield


# Inside, the user's torch function modes and tensor subclasses see nothing.
without_function_modes: Callable[[], AbstractContextManager[None]] = torch._C.DisableTorchFunction


def unseen(function: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """The function, whose work the user's function modes, dispatch modes and tensor subclasses do not see."""

    @functools.wraps(function)
    def hidden(*args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        with without_function_modes():
            if not num_dispatch_modes():
                return function(*args, **kwargs)
            with without_dispatch_modes():
                return function(*args, **kwargs)

    return hidden


def is_one_of_several_ranks() -> bool:
    """Whether other processes train with this one, and wait for it wherever they communicate."""
    distributed = torch.distributed
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def without_autocast() -> AbstractContextManager[None]:
    """Inside, autocast does not change the dtype that an operation computes in."""
    return torch._C._DisableAutocast()


def gradient_accumulator(leaf: Tensor) -> Node:
    """The autograd node that adds to `leaf.grad`. The tensor holds it weakly: keep it while hooks on it are needed."""
    return torch.autograd.graph.get_gradient_edge(leaf).node


def has_user_forward_hooks(module: nn.Module) -> bool:
    """Whether the module has forward hooks of its own, which may replace its output."""
    return bool(module._forward_hooks)


def has_user_forward_pre_hooks(module: nn.Module) -> bool:
    """Whether the module has forward pre-hooks of its own, which may replace its input."""
    return bool(module._forward_pre_hooks)


@contextmanager
def without_post_accumulate_hooks(parameters: Sequence[Tensor]) -> Iterator[None]:
    """Inside, the users' post-accumulate hooks (optimisers that step during backward) do not run."""
    hooks: list[Any] = [parameter._post_accumulate_grad_hooks for parameter in parameters]
    hooked = [(p, h) for p, h in zip(parameters, hooks, strict=True) if h]
    try:
        for parameter, _ in hooked:
            parameter._post_accumulate_grad_hooks = None  # type: ignore[assignment]
        yield
    finally:
        for parameter, saved in hooked:
            parameter._post_accumulate_grad_hooks = saved


@contextmanager
def without_optimizer_hooks() -> Iterator[None]:
    """Inside, the process-wide hooks around optimisers' steps do not run."""
    registries: list[Any] = [_global_optimizer_pre_hooks, _global_optimizer_post_hooks]
    saved = [dict(registry) for registry in registries]
    try:
        for registry in registries:
            registry.clear()
        yield
    finally:
        for registry, hooks in zip(registries, saved, strict=True):
            registry.update(hooks)


@contextmanager
def waiting_seeds_preserved() -> Iterator[None]:
    """Inside, `torch.manual_seed` may leave a seed for a device that nobody has used yet; afterwards the user's waits there."""
    kinds: list[Any] = [torch.cuda, getattr(torch, "xpu", None)]
    waiting = [vars(kind._lazy_seed_tracker) for kind in kinds if hasattr(kind, "_lazy_seed_tracker")]
    saved = [dict(attributes) for attributes in waiting]
    try:
        yield
    finally:
        for attributes, before in zip(waiting, saved, strict=True):
            attributes.update(before)


def next_sequence_number() -> int:
    """The number that autograd gives the next node made in this thread."""
    return torch._C._autograd._get_sequence_nr()  # pyright: ignore[reportAttributeAccessIssue]


def node_name(node: Node) -> str:
    """What autograd calls the node, without its namespace and number: "Sigmoid", "AccumulateGrad".

    >>> node_name(torch.ones(1, requires_grad=True).sigmoid().grad_fn)
    'Sigmoid'
    """
    return _without_number(node.name())


def leaf_ids(node: Node | None) -> tuple[int, ...]:
    """The id of the tensor whose gradient a node adds up; nothing for other nodes and for no node.

    >>> weight = torch.ones(1, requires_grad=True)
    >>> leaf_ids(weight.sigmoid().grad_fn.next_functions[0][0]) == (id(weight),), leaf_ids(None)
    (True, ())
    """
    leaf = getattr(node, "variable", None)
    return () if leaf is None else (id(leaf),)


@functools.lru_cache(maxsize=1024)
def _without_number(name: str) -> str:
    return re.sub(r"Backward\d*$", "", name.rpartition("::")[2])


def leaves_behind(roots: Sequence[Tensor]) -> list[Tensor]:
    """The leaf tensors that a backward pass from the roots would add gradients to."""
    return leaves_behind_nodes([root.grad_fn for root in roots if root.grad_fn is not None])


def leaf_of(node: Node) -> Tensor | None:
    """The leaf tensor that a node adds gradients to; None of any other node."""
    leaf = getattr(node, "variable", None)
    return leaf if isinstance(leaf, Tensor) else None


def leaves_behind_nodes(nodes: Sequence[Node]) -> list[Tensor]:
    """The leaf tensors that a backward pass from autograd's nodes would add gradients to."""
    stack = list(dict.fromkeys(nodes))
    seen = set(stack)
    leaves: list[Tensor] = []
    while stack:
        node = stack.pop()
        leaf = leaf_of(node)
        if leaf is not None:
            leaves.append(leaf)
        for next_node, _ in node.next_functions:
            if next_node is not None and next_node not in seen:
                seen.add(next_node)
                stack.append(next_node)
    return leaves
