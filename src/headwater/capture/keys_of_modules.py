"""Reads a model's code for how it takes entries of a dict of modules: by keys that stand there, or by what the inputs ask for."""

from __future__ import annotations

import ast
import functools
from collections.abc import Collection

from torch import nn

from headwater.capture.model_code import callers_of, own_functions, parsed_code

_GOING_THROUGH = ("items", "values", "keys", "get", "pop")


def dicts_with_constant_keys(model: nn.Module, silent: Collection[str]) -> list[str]:
    """Paths of the dicts of modules with silent entries of which code takes entries by constants only (`self.heads["left"]`).

    What runs does not depend on the inputs then, so that an entry that does not run was forgotten. A dict that some code goes through,
    hands on, or takes entries of by a variable, chooses.

    Args:
        model: whose code is read, as far as Python knows it.
        silent: paths of the modules that never ran.

    >>> dicts_with_constant_keys(nn.ModuleDict({"a": nn.Linear(1, 1)}), ["a"])
    []
    """
    modules = dict(model.named_modules())
    parsed = functools.cache(parsed_code)
    found: list[str] = []
    for path, entries in modules.items():
        if path and isinstance(entries, nn.ModuleDict) and any(f"{path}.{key}" in silent for key in entries):
            name = path.rpartition(".")[2]
            sources = [parsed(function) for owner in callers_of(path) for function in own_functions(modules[owner])]
            is_constant = [
                constant for source in sources if source is not None for constant in _uses(source.tree, name)
            ]
            if is_constant and all(is_constant):
                found.append(path)
    return found


def _uses(tree: ast.AST, name: str) -> list[bool]:
    """For each place that reads an attribute of this name, whether it takes an entry by a constant."""
    taken = {
        node.value
        for node in ast.walk(tree)
        if (isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant))
        or (isinstance(node, ast.Attribute) and node.attr not in _GOING_THROUGH)
    }
    return [
        node in taken
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == name and isinstance(node.ctx, ast.Load)
    ]
