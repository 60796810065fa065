"""Reads a model's code for loops over a list of layers that leave some of them out: a `return` in the body, a slice that is too short."""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType

from torch import nn

from headwater.capture.source_lines import is_from_a_library

ENDS_IN_ITS_FIRST_ROUND = "ends"
LEAVES_OUT = "slice"
_Loop = ast.For | ast.AsyncFor


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An entry of a list that no loop over the list comes to.

    Args:
        module: path of the entry.
        how: `ENDS_IN_ITS_FIRST_ROUND` or `LEAVES_OUT`.
        file, line: of the statement that does it.
    """

    module: str
    how: str
    file: str
    line: int


def layers_left_out(model: nn.Module, silent: Collection[str]) -> list[LeftOut]:
    """The entries of lists of modules that all loops over the list leave out, whatever the inputs are.

    Only what the code says for certain counts: constants, `len(self.layers)`, a `return` or `break` that nothing decides about. A list
    that some loop goes through whole, or up to a variable, is left out of account.

    Args:
        model: whose code is read, as far as Python knows it.
        silent: paths of the modules that never ran.

    >>> layers_left_out(nn.Sequential(nn.Linear(1, 1)), ["0"])
    []
    """
    modules = dict(model.named_modules())
    lists = {name: len(one) for name, one in modules.items() if isinstance(one, nn.ModuleList | nn.Sequential)}
    found: list[LeftOut] = []
    for path, length in lists.items():
        waiting = [index for index in range(length) if f"{path}.{index}" in silent]
        if 0 < len(waiting) < length and path:
            loops = [loop for owner in _around(path) for loop in _loops_over(modules[owner], path, owner, lists)]
            found += _left_out(path, waiting, loops)
    return found


def _around(path: str) -> Iterator[str]:
    while path:
        path = path.rpartition(".")[0]
        yield path


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one loop does with a list: the indices it comes to (None: not known), and where the code says so."""

    reached: frozenset[int] | None
    how: str
    file: str
    line: int


def _left_out(path: str, waiting: Sequence[int], loops: Sequence[_Reading]) -> Iterator[LeftOut]:
    if not loops or any(loop.reached is None for loop in loops):
        return
    reached = frozenset[int]().union(*(loop.reached or () for loop in loops))
    for index in waiting:
        if index not in reached:
            yield LeftOut(f"{path}.{index}", loops[0].how, loops[0].file, loops[0].line)


def _loops_over(module: nn.Module, path: str, owner: str, lists: Mapping[str, int]) -> Iterator[_Reading]:
    """What loops in the methods of a module do with a list inside of the module.

    Args:
        module: whose methods.
        path: of the list.
        owner: path of the module.
        lists: lengths of all lists, by path.
    """
    prefix = f"{owner}." if owner else ""
    lengths = {name.removeprefix(prefix): length for name, length in lists.items() if name.startswith(prefix)}
    name = path.removeprefix(prefix)
    for function in _own_functions(module):
        if name.rpartition(".")[2] not in function.__code__.co_names:
            continue
        try:
            lines, first = inspect.getsourcelines(function)
            tree = ast.parse(textwrap.dedent("".join(lines)))
        except (OSError, TypeError, SyntaxError):  # made by exec(), or a line that begins within a statement (a lambda)
            continue
        own = function.__code__.co_varnames[0] if function.__code__.co_argcount else "self"
        reader = _Reader(f"{own}.{name}", {f"{own}.{other}": length for other, length in lengths.items()})
        for node in ast.walk(tree):
            if isinstance(node, _Loop) and reader.is_about(node):
                reached, how, line = reader.read(node)
                yield _Reading(reached, how, function.__code__.co_filename, first + line - 1)
            elif isinstance(node, ast.comprehension) and reader.mentions(node.iter):
                yield _Reading(None, "", "", 0)


def _own_functions(module: nn.Module) -> Iterator[FunctionType]:
    """The functions that the user wrote, but for the one that makes the layers; also those that the module was given."""
    yield from (value for value in vars(module).values() if isinstance(value, FunctionType))
    for kind in type(module).__mro__:
        if not is_from_a_library(kind):
            yield from (v for name, v in vars(kind).items() if isinstance(v, FunctionType) and name != "__init__")


class _Reader:
    """Reads loops over one list; lists have known lengths, by the expression that code has for them (`self.layers`)."""

    def __init__(self, expression: str, lengths: Mapping[str, int]) -> None:
        self._expression = expression
        self._lengths = lengths
        self._all = range(lengths[expression])

    def mentions(self, node: ast.AST) -> bool:
        return any(self._is_list(inner) for inner in ast.walk(node))

    def is_about(self, loop: _Loop) -> bool:
        """Whether it runs over the list, or over numbers by which its body takes entries of the list."""
        return self.mentions(loop.iter) or self._is_indexed_by(loop)

    def read(self, loop: _Loop) -> tuple[frozenset[int] | None, str, int]:
        """The indices that it comes to, None where the code does not say it; how it leaves out others; and the line."""
        numbers = self._numbers(loop.iter)
        if numbers is None:
            return None, "", loop.lineno
        end = next((s for s in loop.body if isinstance(s, ast.Return | ast.Break)), None)
        # What may go on to the next round before it is the user's choice.
        if end is not None and not any(isinstance(inner, ast.Continue) for s in loop.body for inner in ast.walk(s)):
            return frozenset(numbers[:1]), ENDS_IN_ITS_FIRST_ROUND, end.lineno
        return frozenset(numbers), LEAVES_OUT, loop.iter.lineno

    def _numbers(self, node: ast.expr) -> list[int] | None:
        """The indices of the list in the order in which an expression gives its entries, or the numbers themselves."""
        if self._is_list(node):
            return list(self._all)
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            inner, bounds = self._numbers(node.value), self._bounds(node.slice)
            return None if inner is None or bounds is None else inner[bounds]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            return self._numbers_of_call(node.func.id, node.args)
        return None

    def _numbers_of_call(self, name: str, arguments: Sequence[ast.expr]) -> list[int] | None:
        if name == "range":
            values = [self._integer(argument) for argument in arguments]
            known = [value for value in values if value is not None]
            return list(range(*known)) if known and len(known) == len(values) and 0 not in known[2:] else None
        if name in ("enumerate", "list", "tuple", "reversed") and arguments:
            inner = self._numbers(arguments[0])
            return inner[::-1] if inner is not None and name == "reversed" else inner
        if name == "zip":
            own = [inner for argument in arguments if (inner := self._numbers(argument)) is not None]
            others = [self._length(argument) for argument in arguments if self._numbers(argument) is None]
            lengths = [length for length in others if length is not None]
            return own[0][: min(lengths, default=None)] if len(own) == 1 and len(lengths) == len(others) else None
        return None

    def _length(self, node: ast.expr) -> int | None:
        """Of another list of the same module, or of a constant slice of one."""
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Slice):
            inner, bounds = self._length(node.value), self._bounds(node.slice)
            return None if inner is None or bounds is None else len(range(inner)[bounds])
        return self._lengths.get(ast.unparse(node)) if isinstance(node, ast.Attribute) else None

    def _bounds(self, node: ast.Slice) -> slice | None:
        values = [None if part is None else self._integer(part) for part in (node.lower, node.upper, node.step)]
        parts = zip((node.lower, node.upper, node.step), values, strict=True)
        is_known = all(part is None or value is not None for part, value in parts)
        return slice(*values) if is_known and values[2] != 0 else None

    def _integer(self, node: ast.expr) -> int | None:
        if isinstance(node, ast.Constant) and type(node.value) is int:
            return node.value
        if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
            value = self._integer(node.operand)
            return None if value is None else -value
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub):
            left, right = self._integer(node.left), self._integer(node.right)
            if left is not None and right is not None:
                return left + right if isinstance(node.op, ast.Add) else left - right
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "len" and node.args:
            return self._length(node.args[0])
        return None

    def _is_list(self, node: ast.AST) -> bool:
        return isinstance(node, ast.Attribute) and ast.unparse(node) == self._expression

    def _is_indexed_by(self, loop: _Loop) -> bool:
        """Whether its body takes the entry at the loop's own number, and no other one at a number made of it."""
        if not isinstance(loop.target, ast.Name):
            return False
        taken = [
            node.slice
            for statement in loop.body
            for node in ast.walk(statement)
            if isinstance(node, ast.Subscript) and self._is_list(node.value)
        ]
        name = loop.target.id
        return bool(taken) and all(isinstance(one, ast.Name) and one.id == name for one in taken)
