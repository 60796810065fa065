"""Finds the tensors in whatever a module takes or returns, and rebuilds such structures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from torch import Tensor

_MAX_NESTING = 16  # a structure that contains itself ends here


def named_tensors(value: Any) -> list[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists, mappings and dataclasses, each with its path ("" for a bare tensor).

    >>> import torch
    >>> [path for path, _ in named_tensors((torch.ones(1), {"h": torch.ones(1), "n": None}))]
    ['0', '1.h']
    """
    if isinstance(value, Tensor):  # the usual cases first
        return [("", value)]
    if type(value) is tuple and len(value) == 1 and isinstance(value[0], Tensor):
        return [("0", value[0])]
    return [(path, leaf) for path, leaf in _leaves(value) if isinstance(leaf, Tensor)] if value is not None else []


def map_tensors(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The same structure with every tensor replaced by `change(tensor)`; objects of unknown types stay as they are."""
    if isinstance(value, Tensor):
        return change(value)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(map_tensors(child, change) for child in value))
    if type(value) in (tuple, list):
        return type(value)(map_tensors(child, change) for child in value)
    if type(value) is dict:
        return {key: map_tensors(child, change) for key, child in value.items()}
    return value


def unknown_types(value: Any) -> set[str]:
    """Names of the types in a structure that may hold tensors nobody looks into."""
    known = Tensor | bool | int | float | complex | str | bytes | None
    return {type(leaf).__name__ for _, leaf in _leaves(value) if not isinstance(leaf, known)}


def _leaves(
    value: Any, path: str = "", level: int = 0, seen: dict[int, Any] | None = None
) -> Iterator[tuple[str, Any]]:
    """What is in a structure and no container itself; a container that stands in it twice is read once."""
    seen = {} if seen is None else seen
    children = _children(value)
    if children is None:
        yield path, value
    elif id(value) not in seen and level < _MAX_NESTING:
        seen[id(value)] = value  # the reference keeps the number from being given to another container
        for key, child in children:
            yield from _leaves(child, f"{path}.{key}" if path else str(key), level + 1, seen)


def _children(value: Any) -> Iterable[tuple[Any, Any]] | None:
    """The items of a container with their keys; None for anything else."""
    if isinstance(value, tuple | list):
        return enumerate(value)
    # Before dataclass: a transformers ModelOutput is both, and as a mapping it skips its Nones.
    if isinstance(value, Mapping):
        return value.items()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return [(name, getattr(value, name)) for name in names if hasattr(value, name)]
    return None
