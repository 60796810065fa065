"""The Jacobian of a model between two places, as an operator: products with it and with its transpose, and no matrix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from headwater.capture import ProblemError, torch_internals
from headwater.capture.preservation import preserved
from headwater.lab.jacobian.products import Products, differentiated
from headwater.lab.jacobian.tensor_function import Place, TensorFunction

Array = NDArray[np.float64]


class Operator(Protocol):
    """What the estimators need: one matrix for each of some samples."""

    num_samples: int
    num_inputs: int
    num_outputs: int
    precision: float

    def times(self, directions: Array) -> Array:
        """Shape (samples, inputs) to (samples, outputs)."""
        ...

    def transposed_times(self, cotangents: Array) -> Array:
        """Shape (samples, outputs) to (samples, inputs)."""
        ...


@final
class JacobianOperator:
    """Products with the Jacobian of each sample; all samples at once, in float64 outside of the model.

    Args:
        products: of the model.
        num_samples: of the batch, each with a Jacobian of its own.
    """

    def __init__(self, products: Products, num_samples: int) -> None:
        self._products = products
        self.num_samples = num_samples
        self.num_inputs = products.variable.numel() // num_samples
        self.num_outputs = products.value.numel() // num_samples
        self.precision = float(torch.finfo(products.variable.dtype).eps)

    def times(self, directions: Array) -> Array:
        """J v of each sample: shape (samples, inputs) to (samples, outputs)."""
        return self._product(self._products.forward, directions, self._products.variable)

    def transposed_times(self, cotangents: Array) -> Array:
        """J^T u of each sample: shape (samples, outputs) to (samples, inputs)."""
        return self._product(self._products.backward, cotangents, self._products.value)

    def _product(self, product: Callable[[Tensor], Tensor], vectors: Array, like: Tensor) -> Array:
        scaled = torch.from_numpy(np.ascontiguousarray(vectors * self._products.scale))
        result = product(scaled.to(like.device, like.dtype).reshape(like.shape))
        return result.detach().double().cpu().numpy().reshape(self.num_samples, -1) / self._products.scale


@contextmanager
def jacobian_operator(
    model: nn.Module,
    inputs: Any,
    *,
    layer: Place | None = None,
    output: Place | Callable[[Any], Tensor] | None = None,
    whole: bool = False,
    seed: int = 0,
    with_forward: bool = True,
) -> Iterator[JacobianOperator]:
    """The Jacobian of a model, for use inside of a `with`; nothing of the model has changed afterwards.

    Args:
        model: the network, as it is: in training or evaluation mode.
        inputs: a tensor, a tuple of positional arguments, or a dict of keyword arguments.
        layer: differentiate by this module's output, or by that of its n-th call: (module, n); by the model's input for None.
        output: differentiate this module's output, or a function of the model's output; the model's output for None.
        whole: one Jacobian of the whole batch, instead of one for each sample.
        seed: of the random generators that the model draws from.
        with_forward: whether products J v will be needed, too.

    Raises:
        ProblemError: the model cannot be run or differentiated this way, or samples influence one another.

    >>> layer = nn.Linear(3, 2, bias=False)
    >>> with jacobian_operator(layer, torch.ones(1, 3)) as jacobian:
    ...     product = jacobian.times(np.ones((1, 3)))
    >>> bool(np.allclose(product, layer.weight.sum(1).detach()))
    True
    """
    if not isinstance(model, nn.Module):
        raise ProblemError(f"expected the model to be a torch.nn.Module, got {type(model).__name__}")
    with (
        preserved(model),
        torch_internals.compiled_code_runs_eagerly(),
        torch.inference_mode(False),
        torch.enable_grad(),
    ):
        products = differentiated(TensorFunction(model, inputs, layer, output, seed), with_forward=with_forward)
        yield JacobianOperator(products, _num_samples(products, whole=whole))


def _num_samples(products: Products, *, whole: bool) -> int:
    variable, value = products.variable, products.value
    if whole or variable.dim() < 2:
        return 1
    samples = variable.shape[0]
    if value.dim() == 0 or value.shape[0] != samples:
        raise ProblemError(
            f"expected a value for each of {samples} samples, got shape {tuple(value.shape)} for a variable of shape "
            f"{tuple(variable.shape)}; pass whole=True for the Jacobian of all samples together"
        )
    if samples > 1:
        _check_independence(products)
    return samples


def _check_independence(products: Products) -> None:
    """A cotangent at every other sample must not reach those between."""
    cotangent = torch.zeros_like(products.value)
    cotangent[::2] = products.scale
    found = products.backward(cotangent)
    if bool((found[1::2] != 0).any()):
        raise ProblemError(
            "the samples of the batch influence one another (batch statistics, or the first dimension is no batch); call model.eval(), "
            "give one sample, or pass whole=True for the Jacobian of all samples together"
        )
