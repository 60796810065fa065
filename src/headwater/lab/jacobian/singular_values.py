"""The largest or smallest singular values of a Jacobian, by block Krylov iteration with Rayleigh-Ritz (Musco & Musco 2015, arXiv 1504.05477)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from headwater.lab.jacobian.operator import Operator, jacobian_operator
from headwater.lab.jacobian.tensor_function import Place

Array = NDArray[np.float64]
Which = Literal["largest", "smallest"]

_SPARE = 2  # columns of a block beyond k: multiple singular values next to the last one converge, too
_DEPENDENT = 1e-9  # what is left of a column, relative to before, when nothing new was in it


@dataclass(frozen=True, slots=True, eq=False)
class SingularValues:
    """Singular values of each sample's Jacobian, largest first.

    Args:
        values: shape (samples, k).
        errors: no further than this from a true singular value, same shape: a proven bound (the residual's), mostly far above the error.
        num_products: with J, and as many with its transpose, for all samples at once.
        is_converged: whether every error is within the tolerance.
    """

    values: Array
    errors: Array
    num_products: int
    is_converged: bool


def singular_values(
    model: nn.Module,
    inputs: Any,
    k: int = 6,
    *,
    layer: Place | None = None,
    output: Place | Callable[[Any], Tensor] | None = None,
    which: Which = "largest",
    tolerance: float = 1e-5,
    most_products: int = 400,
    whole: bool = False,
    seed: int = 0,
) -> SingularValues:
    """The k largest or smallest singular values of each sample's Jacobian, without the Jacobian, with bounds of their errors.

    Small ones take many products: all of them are found, and exact, after min(inputs, outputs) products. The rounding of the model's own
    arithmetic comes on top of the errors: about 1e-6 of the largest for a float32 network of a hundred layers.

    Args:
        model: the network; nothing of it has changed afterwards.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        k: how many; at most min(inputs, outputs) are there.
        layer: differentiate by this module's output, or by that of its n-th call: (module, n); by the model's input for None.
        output: differentiate this module's output, or a function of the model's output; the model's output for None.
        which: "largest" or "smallest".
        tolerance: of the errors, relative to the largest singular value.
        most_products: where it ends, converged or not; as many vectors are kept for each sample.
        whole: one Jacobian of the whole batch, instead of one for each sample.
        seed: of the first directions, and of the model's own random numbers.

    Raises:
        ProblemError: the model cannot be run or differentiated this way, or samples influence one another.
        ValueError: k is below 1, or `which` is unknown.

    >>> import torch
    >>> found = singular_values(nn.Flatten(), torch.ones(1, 4), k=2)
    >>> found.values.round(5).tolist(), found.is_converged
    ([[1.0, 1.0]], True)
    """
    if k < 1 or which not in ("largest", "smallest"):
        raise ValueError(f"expected k of at least 1 and which 'largest' or 'smallest', got {k} and {which!r}")
    with jacobian_operator(model, inputs, layer=layer, output=output, whole=whole, seed=seed) as jacobian:
        return extreme_singular_values(
            jacobian, k, which=which, tolerance=tolerance, most_products=most_products, seed=seed
        )


def extreme_singular_values(
    jacobian: Operator,
    k: int,
    *,
    which: Which = "largest",
    tolerance: float = 1e-5,
    most_products: int = 400,
    seed: int = 0,
) -> SingularValues:
    """The same of any operator; see `singular_values`.

    >>> import torch
    >>> with jacobian_operator(nn.Flatten(), torch.ones(1, 4)) as identity:
    ...     extreme_singular_values(identity, 1).values.round(5).tolist()
    [[1.0]]
    """
    sides = _Sides(jacobian)
    k = min(k, sides.small)
    tolerance = max(tolerance, 10.0 * jacobian.precision)
    generator = np.random.default_rng(seed)
    krylov = [
        _Krylov(np.empty((sides.small, 0)), np.empty((sides.large, 0)), np.empty((sides.small, 0)))
    ] * jacobian.num_samples
    block = [
        _new_columns(generator.standard_normal((sides.small, min(k + _SPARE, sides.small))), each.basis, generator)
        for each in krylov
    ]
    while True:
        there = sides.times(np.stack(block))
        back = sides.transposed_times(there)
        krylov = [each.extended(*new) for each, new in zip(krylov, zip(block, there, back, strict=True), strict=True)]
        count = krylov[0].basis.shape[1]
        found = [
            _ritz(each, k, which, is_complete=count == sides.small, precision=jacobian.precision) for each in krylov
        ]
        is_converged = all(pairs.is_within(tolerance) for pairs in found)
        if is_converged or count >= min(sides.small, most_products):
            values, errors = (np.stack([getattr(pairs, name) for pairs in found]) for name in ("values", "errors"))
            return SingularValues(values, errors, count, is_converged)
        width = min(back.shape[2], sides.small - count)
        block = [_new_columns(new[:, :width], each.basis, generator) for each, new in zip(krylov, back, strict=True)]


class _Sides:
    """The operator, seen from its smaller side: its square there has min(inputs, outputs) eigenvalues and no more."""

    def __init__(self, jacobian: Operator) -> None:
        is_tall = jacobian.num_inputs <= jacobian.num_outputs
        there, back = jacobian.times, jacobian.transposed_times
        self._times, self._transposed_times = (there, back) if is_tall else (back, there)
        sizes = (jacobian.num_inputs, jacobian.num_outputs)
        self.small, self.large = min(sizes), max(sizes)

    def times(self, block: Array) -> Array:
        return _each_column(self._times, block)

    def transposed_times(self, block: Array) -> Array:
        return _each_column(self._transposed_times, block)


def _each_column(product: Callable[[Array], Array], block: Array) -> Array:
    """Shape (samples, n, columns) to (samples, m, columns)."""
    return np.stack([product(block[:, :, column]) for column in range(block.shape[2])], axis=2)


class _Krylov(NamedTuple):
    """Of one sample: orthonormal V, J V, and J^T J V."""

    basis: Array
    there: Array
    back: Array

    def extended(self, basis: Array, there: Array, back: Array) -> _Krylov:
        return _Krylov(*(np.hstack(pair) for pair in zip(self, (basis, there, back), strict=True)))


class _RitzValues(NamedTuple):
    values: Array
    errors: Array
    largest: float

    def is_within(self, tolerance: float) -> bool:
        return bool((self.errors <= tolerance * self.largest).all())


def _ritz(krylov: _Krylov, k: int, which: Which, *, is_complete: bool, precision: float) -> _RitzValues:
    """Singular values of J on the span of the basis; errors from the residuals of J^T J v = s² v: |s² - sigma²| is at most their norm."""
    _, found, rotation = np.linalg.svd(krylov.there, full_matrices=False)
    largest = float(found[0])
    chosen = slice(0, k) if which == "largest" else slice(len(found) - k, None)
    values, vectors = found[chosen], rotation[chosen].T
    if is_complete:
        return _RitzValues(values, np.full_like(values, precision * largest), largest)
    residual = np.linalg.norm(krylov.back @ vectors - krylov.basis @ vectors * values**2, axis=0)
    errors = np.minimum(
        np.sqrt(residual), residual / np.where(values > 0.0, values, np.inf) + (values == 0.0) * np.sqrt(residual)
    )
    return _RitzValues(values, errors, largest)


def _new_columns(block: Array, basis: Array, generator: np.random.Generator) -> Array:
    """Orthonormal columns for a block, at right angles to the basis; random ones where it holds nothing new."""
    columns = np.empty((len(block), 0))
    for column in block.T:
        columns = np.column_stack([columns, _orthogonal_to((basis, columns), column, generator)])
    return columns


def _orthogonal_to(known: tuple[Array, Array], vector: Array, generator: np.random.Generator) -> Array:
    while True:
        before = np.linalg.norm(vector)
        projected = _without(known, vector)
        after = np.linalg.norm(projected)
        if after > _DEPENDENT * before:
            again = _without(known, projected / after)
            return again / np.linalg.norm(again)
        vector = generator.standard_normal(len(vector))


def _without(known: tuple[Array, Array], vector: Array) -> Array:
    for _ in range(2):  # once more: the first projection leaves what rounding has put in
        for basis in known:
            vector = vector - basis @ (basis.T @ vector)
    return vector
