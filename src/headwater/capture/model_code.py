"""The code of a model's methods, as Python knows it."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from types import FunctionType, MethodType

from torch import nn

from headwater.capture.source_lines import is_from_a_library


@dataclass(frozen=True, slots=True)
class Source:
    """The code of a function: its tree, the first line in its file, and all names in it, those of functions inside of it too."""

    tree: ast.AST
    first: int
    names: frozenset[str]


def parsed_code(function: FunctionType) -> Source | None:
    """The code of a function, as far as Python knows it."""
    try:
        lines, first = inspect.getsourcelines(function)
        tree = ast.parse(textwrap.dedent("".join(lines)))
    except (OSError, TypeError, SyntaxError):  # made by exec(), or a line that begins within a statement (a lambda)
        return None
    return Source(tree, first, frozenset(node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)))


def own_functions(module: nn.Module) -> Iterator[FunctionType]:
    """The functions that the user wrote, but for the one that makes the layers; also those that the module was given."""
    given = [vars(module)]
    written = [vars(kind) for kind in type(module).__mro__ if not is_from_a_library(kind)]
    for functions in (*given, *written):
        for name, value in functions.items():
            plain = value.fget if isinstance(value, property) else value
            plain = plain.__func__ if isinstance(plain, MethodType | staticmethod | classmethod) else plain
            if isinstance(plain, FunctionType) and name != "__init__":
                inner = inspect.unwrap(plain)  # of a decorator
                yield inner if isinstance(inner, FunctionType) else plain


def callers_of(path: str) -> Iterator[str]:
    """The paths of the modules around a module, the nearest first.

    >>> list(callers_of("encoder.layers"))
    ['encoder', '']
    """
    while path:
        path = path.rpartition(".")[0]
        yield path
