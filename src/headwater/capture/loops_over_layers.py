"""Reads a model's code for loops over a list of layers that leave some of them out: a `return` in the body, a slice that is too short."""

from __future__ import annotations

import ast
import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import FunctionType

from torch import nn

from headwater.capture.model_code import Source, callers_of, own_functions, parsed_code

ENDS_IN_ITS_FIRST_ROUND = "ends"
LEAVES_OUT = "slice"
_MAKING = ("append", "extend", "insert")  # methods of a list that make it
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
    that some loop goes through whole, or up to a variable, is left out of account; so is one that code does anything else with, but
    for entries that it takes by a constant (`self.layers[-1]`).

    Args:
        model: whose code is read, as far as Python knows it.
        silent: paths of the modules that never ran.

    >>> layers_left_out(nn.Sequential(nn.Linear(1, 1)), ["0"])
    []
    """
    modules = dict(model.named_modules())
    lists = {name: len(one) for name, one in modules.items() if isinstance(one, nn.ModuleList | nn.Sequential) and name}
    lengths: dict[str, dict[str, int]] = {}
    for path, length in lists.items():
        for owner in callers_of(path):
            lengths.setdefault(owner, {})[path.removeprefix(f"{owner}." if owner else "")] = length
    parsed = functools.cache(parsed_code)
    found: list[LeftOut] = []
    for path, length in lists.items():
        waiting = [index for index in range(length) if f"{path}.{index}" in silent]
        if 0 < len(waiting) < length:
            readings = [
                reading
                for owner in callers_of(path)
                for reading in _readings(modules[owner], path.removeprefix(f"{owner}."), lengths[owner], parsed)
            ]
            found += _left_out(path, waiting, readings)
    return found


@dataclass(frozen=True, slots=True)
class _Reading:
    """What one place does with a list: the indices it comes to (None: not known); of a loop, how it leaves others out, and where."""

    reached: frozenset[int] | None
    how: str = ""
    file: str = ""
    line: int = 0


def _left_out(path: str, waiting: Sequence[int], readings: Sequence[_Reading]) -> Iterator[LeftOut]:
    loops = [reading for reading in readings if reading.how]
    if not loops or any(reading.reached is None for reading in readings):
        return
    reached = frozenset[int]().union(*(reading.reached or () for reading in readings))
    for index in waiting:
        if index not in reached:
            yield LeftOut(f"{path}.{index}", loops[0].how, loops[0].file, loops[0].line)


def _readings(
    module: nn.Module, name: str, lengths: Mapping[str, int], parsed: Callable[[FunctionType], Source | None]
) -> Iterator[_Reading]:
    """What the methods of a module do with a list inside of the module.

    Args:
        module: whose methods.
        name: of the list, as seen from the module.
        lengths: of all lists inside of the module.
        parsed: gives the code of a function, if it is known.
    """
    for function in own_functions(module):
        source = parsed(function)
        if source is None or name.rpartition(".")[2] not in source.names:
            continue
        own = function.__code__.co_varnames[0] if function.__code__.co_argcount else "self"
        reader = _Reader(own, name, lengths)
        accounted: set[ast.AST] = set()
        for node in ast.walk(source.tree):
            if isinstance(node, _Loop) and reader.is_about(node):
                reached, how, line = reader.read(node)
                accounted.update(reader.uses(node.iter) or reader.taken_by_number(node))
                yield _Reading(reached, how, function.__code__.co_filename, source.first + line - 1)
        yield from (_Reading(reached) for reached in reader.elsewhere(source.tree, accounted))


class _Reader:
    """Reads what a method does with one list; lists have known lengths, by the expression that code has for them (`self.layers`)."""

    def __init__(self, own: str, name: str, lengths: Mapping[str, int]) -> None:
        self._own = own
        self._name = name
        self._lengths = lengths
        self._all = range(lengths[name])

    def uses(self, node: ast.AST) -> list[ast.AST]:
        """Where code takes something of the list: not where it makes it, or asks for its length."""
        aside = {
            inner
            for call in ast.walk(node)
            if isinstance(call, ast.Call) and _function_name(call) in ("len", *_MAKING)
            for part in (call.func, *(call.args if _function_name(call) == "len" else ()))
            for inner in ast.walk(part)
        }
        return [inner for inner in ast.walk(node) if self._is_perhaps_list(inner) and inner not in aside]

    def elsewhere(self, tree: ast.AST, accounted: Collection[ast.AST]) -> Iterator[frozenset[int] | None]:
        """The indices that code comes to beside the loops; None for each use that does not say it."""
        taken: dict[ast.AST, int | None] = {
            node.value: self._integer(node.slice)
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and self._is_list(node.value)
        }
        for use in self.uses(tree):
            if use not in accounted:
                index = taken.get(use)
                yield None if index is None else frozenset(self._all[index : index + 1 or None])

    def is_about(self, loop: _Loop) -> bool:
        """Whether it runs over the list, or over numbers by which its body takes entries of the list."""
        return bool(self.uses(loop.iter) or self.taken_by_number(loop))

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
        name = self._named(node) if isinstance(node, ast.Attribute) else None
        return None if name is None else self._lengths[name]

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
        return isinstance(node, ast.Attribute) and self._named(node) == self._name

    def _is_perhaps_list(self, node: ast.AST) -> bool:
        """Also an attribute of that name of something else, which may be the same module."""
        if not isinstance(node, ast.Attribute) or not isinstance(node.ctx, ast.Load):
            return False
        return node.attr == self._name.rpartition(".")[2] and self._named(node) in (self._name, None)

    def _named(self, node: ast.Attribute) -> str | None:
        """The name of the list that an expression stands for, if it is known."""
        own, _, name = ast.unparse(node).partition(".")
        return name if own == self._own and name in self._lengths else None

    def taken_by_number(self, loop: _Loop) -> list[ast.AST]:
        """Where its body takes the entry at the loop's own number; nothing if it takes another one at a number made of it, too."""
        taken = [node for node in ast.walk(loop) if isinstance(node, ast.Subscript) and self._is_list(node.value)]
        if not isinstance(loop.target, ast.Name):
            return []
        name = loop.target.id
        is_own = all(isinstance(one.slice, ast.Name) and one.slice.id == name for one in taken)
        return [one.value for one in taken] if is_own else []


def _function_name(call: ast.Call) -> str:
    """Of a function, or of a method."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr
    return call.func.id if isinstance(call.func, ast.Name) else ""
