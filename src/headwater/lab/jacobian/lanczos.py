"""Golub-Kahan bidiagonalisation of every sample's Jacobian from a random direction, as a quadrature of its singular values."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from headwater.lab.jacobian.operator import Operator

Array = NDArray[np.float64]

_NOTHING = 1e-12  # a vector that is this much shorter than the largest so far: the Krylov space has ended


def golub_kahan(jacobian: Operator, num_nodes: int, generator: np.random.Generator) -> tuple[Array, Array]:
    """Nodes and weights of a Gauss quadrature of the singular values: shape (samples, nodes) each, largest first.

    With J V = U B, U and V orthonormal, B bidiagonal: the singular values of B, and the squares of the first entries of its right singular
    vectors (Golub & Meurant 2010). From the smaller side, so that they are about min(inputs, outputs) singular values. All vectors are kept
    and orthogonalised against: rounding makes no ghosts.

    Args:
        jacobian: with one matrix per sample.
        num_nodes: at most; no more than min(inputs, outputs).
        generator: of the direction.
    """
    is_tall = jacobian.num_inputs <= jacobian.num_outputs
    times, transposed_times = (
        (jacobian.times, jacobian.transposed_times) if is_tall else (jacobian.transposed_times, jacobian.times)
    )
    small = min(jacobian.num_inputs, jacobian.num_outputs)
    num_nodes = min(num_nodes, small)
    right = [_unit(generator.standard_normal((jacobian.num_samples, small)))]
    left: list[Array] = []
    bidiagonal = np.zeros((jacobian.num_samples, num_nodes, num_nodes))
    for step in range(num_nodes):
        size, vector = _next(times(right[-1]), left, bidiagonal)
        bidiagonal[:, step, step] = size
        left.append(vector)
        if step + 1 < num_nodes:
            size, vector = _next(transposed_times(left[-1]), right, bidiagonal)
            bidiagonal[:, step, step + 1] = size
            right.append(vector)
    _, nodes, rotation = np.linalg.svd(bidiagonal)
    return nodes, rotation[:, :, 0] ** 2


def _next(product: Array, known: list[Array], bidiagonal: Array) -> tuple[Array, Array]:
    """Size and direction of what a product adds to the known vectors; zero for samples whose space has ended."""
    if known:
        basis = np.stack(known, axis=1)
        for _ in range(2):
            product = product - np.einsum("spn,sp->sn", basis, np.einsum("spn,sn->sp", basis, product))
    size = np.linalg.norm(product, axis=1)
    size = np.where(size > _NOTHING * bidiagonal.max(axis=(1, 2)), size, 0.0)
    return size, product / np.where(size > 0.0, size, np.inf)[:, None]


def _unit(vectors: Array) -> Array:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
