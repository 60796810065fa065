"""All singular values of a Jacobian: from the matrix where it is small, as a distribution by stochastic Lanczos quadrature where it is not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from headwater.lab.jacobian.estimate import Estimate, mean_of_probes
from headwater.lab.jacobian.lanczos import golub_kahan
from headwater.lab.jacobian.operator import Operator, jacobian_operator
from headwater.lab.jacobian.tensor_function import Place

Array = NDArray[np.float64]
Method = Literal["auto", "dense", "lanczos"]

_LARGEST_DENSE = 512  # singular values, each of which costs a product
_MOST_DENSE_BYTES = 2**30


@dataclass(frozen=True, slots=True, eq=False)
class JacobianSpectrum:
    """How the singular values of each sample's Jacobian are distributed.

    Args:
        singular_values: shape (samples, probes, nodes), largest first: the values themselves (one "probe"), or the nodes of each probe's
            quadrature.
        weights: the share of all min(inputs, outputs) singular values that each stands for, same shape; they sum to 1 per probe.
        method: "dense" (exact) or "lanczos".
        zero_below: what is not larger is zero, as far as the model's precision tells, shape (samples,).
        num_inputs: of one sample.
        num_outputs: of one sample.
    """

    singular_values: Array
    weights: Array
    method: str
    zero_below: Array
    num_inputs: int
    num_outputs: int

    @property
    def largest(self) -> Array:
        """The largest singular value of each sample; by Lanczos it may be a little too small, never too large."""
        return self.singular_values.max(axis=(1, 2))

    def mean_of(self, function: Callable[[Array], Array]) -> Estimate:
        """The mean of a function over a sample's singular values, and its error over the probes.

        Smooth functions are met well by Lanczos; a step (as in `share_below`) to about one over the number of nodes.

        >>> eye = JacobianSpectrum(np.ones((1, 1, 2)), np.full((1, 1, 2), 0.5), "dense", np.zeros(1), 2, 2)
        >>> print(eye.mean_of(lambda s: s**4))
        1 ± 0
        """
        values = (function(self.singular_values) * self.weights).sum(axis=2).T
        return Estimate(values[0], np.zeros_like(values[0])) if self.method == "dense" else mean_of_probes(values)

    def share_below(self, singular_value: float) -> Estimate:
        """The share of a sample's singular values that are smaller than a number."""
        return self.mean_of(lambda values: (values < singular_value).astype(np.float64))

    def share_of_zeros(self) -> Estimate:
        """The share of a sample's singular values that are zero, as far as the model's precision tells."""
        return self.mean_of(lambda values: (values <= self.zero_below[:, None, None]).astype(np.float64))


def jacobian_spectrum(
    model: nn.Module,
    inputs: Any,
    *,
    layer: Place | None = None,
    output: Place | Callable[[Any], Tensor] | None = None,
    method: Method = "auto",
    probes: int = 8,
    num_nodes: int = 64,
    whole: bool = False,
    seed: int = 0,
) -> JacobianSpectrum:
    """The singular values of each sample's Jacobian, or their distribution.

    Stochastic Lanczos quadrature (Ubaru et al. 2017, SIAM J. Matrix Anal. Appl. 38): Golub-Kahan bidiagonalisation from a random direction gives nodes
    and weights of a Gauss quadrature of the distribution, seen from that direction; the mean over directions is the distribution.

    Args:
        model: the network; nothing of it has changed afterwards.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        layer: differentiate by this module's output, or by that of its n-th call: (module, n); by the model's input for None.
        output: differentiate this module's output, or a function of the model's output; the model's output for None.
        method: "dense" makes the matrix, "lanczos" does not; "auto" makes it for up to 512 singular values.
        probes: random directions of Lanczos, at least 1; the errors need 2.
        num_nodes: of each quadrature: so many products with J, and with its transpose, per probe.
        whole: one Jacobian of the whole batch, instead of one for each sample.
        seed: of the directions, and of the model's own random numbers.

    Raises:
        ProblemError: the model cannot be run or differentiated this way, or samples influence one another.
        ValueError: the method is unknown, or there is no probe or node.

    >>> import torch
    >>> spectrum = jacobian_spectrum(nn.ReLU(), torch.tensor([[1.0, -1.0, 2.0]]))
    >>> spectrum.method, spectrum.singular_values.tolist()
    ('dense', [[[1.0, 1.0, 0.0]]])
    """
    if method not in ("auto", "dense", "lanczos") or probes < 1 or num_nodes < 1:
        raise ValueError(
            f"expected the method 'auto', 'dense' or 'lanczos' and at least 1 probe and node, got {method!r}, {probes} and {num_nodes}"
        )
    with jacobian_operator(model, inputs, layer=layer, output=output, whole=whole, seed=seed) as jacobian:
        if method == "dense" or (method == "auto" and _is_small(jacobian)):
            return _from_matrix(jacobian)
        return _from_lanczos(jacobian, probes, num_nodes, seed)


def _from_matrix(jacobian: Operator) -> JacobianSpectrum:
    values = np.linalg.svd(dense(jacobian), compute_uv=False)[:, None, :].astype(np.float64)
    return _spectrum(jacobian, values, np.full_like(values, 1.0 / values.shape[2]), "dense")


def _from_lanczos(jacobian: Operator, probes: int, num_nodes: int, seed: int) -> JacobianSpectrum:
    generator = np.random.default_rng(seed)
    nodes, weights = zip(*(golub_kahan(jacobian, num_nodes, generator) for _ in range(probes)), strict=True)
    return _spectrum(jacobian, np.stack(nodes, axis=1), np.stack(weights, axis=1), "lanczos")


def _spectrum(jacobian: Operator, values: Array, weights: Array, method: str) -> JacobianSpectrum:
    largest = max(jacobian.num_inputs, jacobian.num_outputs)
    zero_below = values.max(axis=(1, 2)) * largest * jacobian.precision
    return JacobianSpectrum(values, weights, method, zero_below, jacobian.num_inputs, jacobian.num_outputs)


def dense(jacobian: Operator) -> Array:
    """The matrix of each sample, shape (samples, outputs, inputs): one product for each row, or column if there are fewer.

    >>> import torch
    >>> with jacobian_operator(nn.Flatten(), torch.ones(1, 2)) as identity:
    ...     dense(identity).tolist()
    [[[1.0, 0.0], [0.0, 1.0]]]
    """
    if jacobian.num_inputs < jacobian.num_outputs:
        return np.stack([jacobian.times(each) for each in _basis(jacobian.num_samples, jacobian.num_inputs)], axis=2)
    rows = _basis(jacobian.num_samples, jacobian.num_outputs)
    return np.stack([jacobian.transposed_times(each) for each in rows], axis=1)


def _basis(num_samples: int, size: int) -> list[Array]:
    return [np.tile(row, (num_samples, 1)) for row in np.eye(size)]


def _is_small(jacobian: Operator) -> bool:
    num_bytes = 8 * jacobian.num_samples * jacobian.num_inputs * jacobian.num_outputs
    return min(jacobian.num_inputs, jacobian.num_outputs) <= _LARGEST_DENSE and num_bytes <= _MOST_DENSE_BYTES
