"""Finds the tensors in whatever a module takes or returns, and rebuilds such structures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor

_MAX_NESTING = 16  # a structure that contains itself ends here


def named_tensors(value: Any, path: str = "", _level: int = 0) -> Iterator[tuple[str, Tensor]]:
    """The tensors in nested tuples, lists, mappings and dataclasses, each with its path ("" for a bare tensor).

    >>> import torch
    >>> [path for path, _ in named_tensors((torch.ones(1), {"h": torch.ones(1), "n": None}))]
    ['0', '1.h']
    """
    if isinstance(value, Tensor):
        yield path, value
        return
    if _level == _MAX_NESTING:
        return
    for key, child in _children(value):
        yield from named_tensors(child, f"{path}.{key}" if path else str(key), _level + 1)


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


def unknown_types(value: Any, _level: int = 0) -> set[str]:
    """Names of the types in a structure that may hold tensors nobody looks into."""
    if value is None or isinstance(value, Tensor | bool | int | float | complex | str | bytes):
        return set()
    children = _children(value)
    if not children and not isinstance(value, tuple | list | Mapping) and not dataclasses.is_dataclass(value):
        return {type(value).__name__}
    if _level == _MAX_NESTING:
        return set()
    return set().union(*(unknown_types(child, _level + 1) for _, child in children))


def _children(value: Any) -> list[tuple[Any, Any]]:
    if isinstance(value, tuple | list):
        return list(enumerate(value))
    if isinstance(
        value, Mapping
    ):  # before dataclass: a transformers ModelOutput is both, and skips its Nones as a mapping
        return list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    return []
