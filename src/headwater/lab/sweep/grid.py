"""Grids of networks: axes with values, and the cells of their product, made one at a time."""

from __future__ import annotations

import hashlib
import inspect
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, NamedTuple

import numpy as np

from headwater.networks.specification import NetworkSpec, SpecificationError

Scalar = str | int | float | bool | None
FIELDS = tuple(each.name for each in fields(NetworkSpec))


class GridError(ValueError):
    """There is no such grid; the message says in one sentence what was expected, what arrived and what to do."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One network of a grid.

    Args:
        line: its specification in one line; what it is known by, from run to run.
        parameters: its fields, or the arguments of its factory.
        spec: of a built-in network; None where a factory makes it.
    """

    line: str
    parameters: Mapping[str, Any]
    spec: NetworkSpec | None = None

    @property
    def key(self) -> int:
        """64 bits of a hash of the line: the same on every machine, for every order of a grid.

        >>> Cell("mlp depth=4 width=64", {}).key
        9840964080501779418
        """
        return hash_of(self.line)


def hash_of(*parts: object) -> int:
    """64 bits of SHA-256 of the parts' text.

    >>> hash_of("a", 1) == hash_of("a", 1) != hash_of("a", 2)
    True
    """
    text = "\0".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def plain_number(value: Any) -> Any:
    """A number of numpy as Python's own; anything else as it is.

    >>> plain_number(np.int64(3)), plain_number("relu")
    (3, 'relu')
    """
    return value.item() if isinstance(value, np.generic) else value


class Survey(NamedTuple):
    """How many cells a grid has.

    Args:
        num_cells: that exist.
        num_impossible: combinations that do not.
        reason: why the first of those does not, in one sentence; "" where there is none.
    """

    num_cells: int
    num_impossible: int
    reason: str


@dataclass(frozen=True)
class Grid:
    """The product of axes, over a base.

    Args:
        axes: values by the name of a field of `NetworkSpec`, or of an argument of the factory. The last one runs fastest.
        base: what is the same for all.
        factory: makes a network, or a problem, from the axes' values as named arguments; None for built-in networks.

    Raises:
        GridError: an axis is empty, names a value twice, or is no field of a network, or no argument of the factory.

    >>> grid = Grid({"depth": [4, 8], "activation": ["relu", "tanh"]}, {"width": 16})
    >>> [cell.line for cell in grid.cells()][:2]
    ['mlp depth=4 width=16', 'mlp depth=4 width=16 activation=tanh']
    """

    axes: Mapping[str, Sequence[Any]]
    base: Mapping[str, Any] = field(default_factory=dict)
    factory: Callable[..., Any] | None = None

    def __post_init__(self) -> None:
        if isinstance(self.base, NetworkSpec):
            object.__setattr__(self, "base", asdict(self.base))
        for what, given in (("axes", self.axes), ("base", self.base)):
            if not isinstance(given, Mapping):
                raise GridError(f"expected the {what} of the grid to be values by name, got {given!r}")
        object.__setattr__(self, "base", {name: plain_number(value) for name, value in self.base.items()})
        object.__setattr__(self, "axes", {name: _values(name, values) for name, values in self.axes.items()})
        if self.factory is not None:
            self._check_factory(self.factory)
            return
        unknown = [name for name in (*self.axes, *self.base) if name not in FIELDS]
        if unknown:
            raise GridError(f"there is no field '{unknown[0]}' of a network; there are {', '.join(FIELDS)}")

    def _check_factory(self, factory: Callable[..., Any]) -> None:
        if not callable(factory):
            raise GridError(f"expected a factory that can be called, got {type(factory).__name__}")
        arguments = {**self.base, **{name: values[0] for name, values in self.axes.items()}}
        try:
            inspect.signature(factory).bind(**arguments)
        except TypeError as error:
            raise GridError(
                f"the factory '{_name_of(factory)}' cannot be called with {', '.join(arguments) or 'no arguments'}: {error}"
            ) from None

    def cells(self) -> Iterator[Cell]:
        """The cells that exist, in the order of the product. None of them is kept."""
        return (cell for cell, _, _ in self._combinations() if cell is not None)

    def survey(self) -> Survey:
        """How many cells exist: one walk over the product that keeps nothing.

        Raises:
            GridError: no cell exists, or none with one of the values: that is a misspelling, not a combination.

        >>> Grid({"shortcut": ["none", "identity"], "initialisation": ["he", "fixup"]}).survey().num_impossible
        1
        """
        unseen = {(name, value): "" for name, values in self.axes.items() for value in values}
        num_cells, num_impossible, first = 0, 0, ""
        for cell, values, reason in self._combinations():
            if cell is None:
                num_impossible += 1
                first = first or reason
            else:
                num_cells += 1
            for item in zip(self.axes, values, strict=True):
                if item in unseen:
                    if cell is not None:
                        del unseen[item]
                    else:
                        unseen[item] = unseen[item] or reason
        if not num_cells:
            raise GridError(f"there is no network in the grid: {first}")
        for (name, value), reason in unseen.items():
            raise GridError(f"there is no network in the grid with {name} = {value!r}: {reason}")
        return Survey(num_cells, num_impossible, first)

    def _combinations(self) -> Iterator[tuple[Cell | None, tuple[Any, ...], str]]:
        for values in itertools.product(*self.axes.values()):
            parameters = {**self.base, **dict(zip(self.axes, values, strict=True))}
            try:
                yield self._cell(parameters), values, ""
            except SpecificationError as error:
                yield None, values, str(error)

    def _cell(self, parameters: dict[str, Any]) -> Cell:
        if self.factory is not None:
            words = [
                f"{name}={value}" for name, value in sorted(parameters.items())
            ]  # whichever is an axis or in the base
            return Cell(" ".join([_name_of(self.factory), *words]), parameters)
        spec = NetworkSpec.from_mapping(parameters)
        return Cell(str(spec), asdict(spec), spec)


def _values(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str) or not isinstance(values, Iterable):
        values = [values]
    values = tuple(map(plain_number, values))
    if not values:
        raise GridError(f"expected values for the axis '{name}' of the grid, got none")
    for value in values:
        if not isinstance(value, str | int | float | bool | None):
            raise GridError(
                f"expected text and numbers on the axis '{name}' of the grid, got {type(value).__name__}; name the values, and let "
                "a factory make of them what it needs"
            )
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise GridError(f"expected numbers of 64 bits on the axis '{name}' of the grid, got {value}")
    seen: set[Any] = set()
    for value in values:
        if value in seen or str(value) in seen:  # a cell is known by its line, in which "1" and 1 are the same
            raise GridError(f"the axis '{name}' of the grid has the value {value!r} twice")
        seen |= {value, str(value)}
    return values


def _name_of(factory: Callable[..., Any]) -> str:
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    return f"{getattr(factory, '__module__', '')}.{name}"
