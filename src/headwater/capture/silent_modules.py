"""What is said about modules that no call was seen of: they never ran, or ran where nobody can look."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from headwater.capture import torch_internals
from headwater.capture.observer import PassObserver

_NAMED_IN_A_NOTE = 5


def silent_modules(named_modules: Sequence[tuple[str, nn.Module]], observer: PassObserver) -> Iterator[str]:
    """Sentences about the modules without a call.

    Args:
        named_modules: all modules of the model, by path.
        observer: of the finished pass.
    """
    called = {id(call.module) for call in observer.calls}
    inside_script = {
        id(child)
        for _, module in named_modules
        if torch_internals.is_script_module(module)
        for child in module.modules()
        if child is not module
    }
    uncalled = [(name, module) for name, module in named_modules if id(module) not in called]
    hidden = [name for name, module in uncalled if id(module) in inside_script]
    added = [name for name, module in uncalled if not observer.observes(module)]
    silent = [
        name
        for name, module in uncalled
        if _has_parameters(module) and id(module) not in inside_script and observer.observes(module)
    ]
    if hidden:
        yield f"Inside a ScriptModule no call can be observed: {_listed(hidden)}."
    if added:
        yield f"Added to the model while it was recorded, and not observed: {_listed(added)}."
    if silent:
        yield f"Never called as a module in this recording (skipped, or used without a call): {_listed(silent)}."


def _has_parameters(module: nn.Module) -> bool:
    return next(module.parameters(recurse=False), None) is not None


def _listed(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:_NAMED_IN_A_NOTE])
    more = len(names) - _NAMED_IN_A_NOTE
    return f"{shown} and {more} more" if more > 0 else shown
