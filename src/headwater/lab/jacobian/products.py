"""Products with a Jacobian by automatic differentiation: J^T u backward, J v by differentiating that once more, or forward."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from headwater.capture import ProblemError
from headwater.capture.passes import called
from headwater.lab.jacobian.tensor_function import TensorFunction

Product = Callable[[Tensor], Tensor]

_FAR = 0.75  # of the exponents that a format has: how far a direction may be scaled away from one


class Products(NamedTuple):
    """Both products, with the tensors whose shapes they take and give.

    `scale`, a power of two, is for what they are given: what a deep network leaves of that then fits into the format.
    """

    variable: Tensor
    value: Tensor
    forward: Product
    backward: Product
    scale: float


def differentiated(function: TensorFunction, *, with_forward: bool = True) -> Products:
    """The products of a function at its inputs, checked against one another: u J v must be the same either way.

    Backward, the model runs once and its graph is kept. J v is the derivative of u -> J^T u, from the same graph: that is faster than
    running the model again in forward mode, works where there is no forward mode (LSTM, batch statistics), and sees the same random numbers.
    Where some operation cannot be differentiated twice, forward mode is used.

    Raises:
        ProblemError: the value does not depend on the variable, or neither way gives J v.

    >>> from torch import nn
    >>> products = differentiated(TensorFunction(nn.Tanh(), torch.zeros(1, 2)))
    >>> products.forward(torch.ones(1, 2))
    tensor([[1., 1.]])
    """
    variable, value = _graph(function)

    def backward(cotangent: Tensor) -> Tensor:
        return torch.autograd.grad(value, variable, cotangent, retain_graph=True)[0]

    scale = _scale(backward, value)
    if not with_forward:
        return Products(variable, value, backward, backward, scale)
    reasons = []
    for make in (_twice_backward, _forward_mode):
        try:
            forward = make(function, variable, value)
            _check_adjoint(forward, backward, variable, scale)
        except Exception as error:  # noqa: BLE001 - each operation that lacks a derivative has an error of its own
            reasons.append(str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__)
        else:
            return Products(variable, value, forward, backward, scale)
    raise ProblemError(
        f"products with the Jacobian need a model that can be differentiated twice ({reasons[0]:.160}) or in forward mode "
        f"({reasons[1]:.160}); partial_jacobian_norm needs neither"
    )


def _graph(function: TensorFunction) -> tuple[Tensor, Tensor]:
    variables: list[Tensor] = []

    def cut(tensor: Tensor) -> Tensor:
        variables.append(tensor.detach().clone().requires_grad_())
        return variables[0].clone()  # a leaf must not be changed in place

    value = function.run(cut)
    variable = variables[0]
    if not _reaches(value, variable):
        where = "the model's input" if function.layer is None else f"the output of {function.layer!r}"
        raise ProblemError(
            f"the output that is to be differentiated does not depend on {where} through autograd: look for detach(), torch.no_grad() "
            "or argmax on the way, or for a layer that runs later"
        )
    return variable, value


def _reaches(value: Tensor, variable: Tensor) -> bool:
    if not value.requires_grad:
        return False
    cotangent = torch.zeros_like(value)
    (gradient,) = called(
        "the backward pass to the layer failed",
        *(torch.autograd.grad, value, variable, cotangent),
        retain_graph=True,
        allow_unused=True,
    )
    return gradient is not None


def _twice_backward(_function: TensorFunction, variable: Tensor, value: Tensor) -> Product:
    cotangent = torch.zeros_like(value).requires_grad_()
    (gradient,) = torch.autograd.grad(value, variable, cotangent, create_graph=True)

    def forward(direction: Tensor) -> Tensor:
        return torch.autograd.grad(gradient, cotangent, direction, retain_graph=True)[0]

    return forward


def _forward_mode(function: TensorFunction, variable: Tensor, _value: Tensor) -> Product:
    def forward(direction: Tensor) -> Tensor:
        with warnings.catch_warnings(), forward_ad.dual_level():
            # Torch's own decompositions for forward mode, loaded at first use.
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", DeprecationWarning)
            value = function.run(lambda _: forward_ad.make_dual(variable.detach().clone(), direction))
            tangent = forward_ad.unpack_dual(value).tangent
            return torch.zeros_like(value) if tangent is None else tangent.detach()

    return forward


def _scale(backward: Product, value: Tensor) -> float:
    """Half of the gain: a product then lies as far below one as what was multiplied lies above.

    Raises:
        ProblemError: the products are NaN or infinite, however small the cotangents.
    """
    furthest = int(_FAR * math.log2(torch.finfo(value.dtype).max))
    cotangent = _random_like(value)
    is_finite = True
    for exponent in (0, furthest, -furthest):
        gain = float(backward(cotangent * 2.0**exponent).abs().max()) * 2.0**-exponent
        if 0.0 < gain < math.inf:
            return 2.0 ** max(-furthest, min(furthest, round(-0.5 * math.log2(gain))))
        is_finite = is_finite and math.isfinite(gain)
    if not is_finite:
        raise ProblemError(
            "the Jacobian holds NaN or Inf; headwater.diagnose names the operation that made the first one (HW104)"
        )
    return 1.0


def _check_adjoint(forward: Product, backward: Product, variable: Tensor, scale: float) -> None:
    """||J v||² is v J^T J v. A custom backward that cannot be differentiated, or a model that is another one each time, fails."""
    direction = _random_like(variable)
    there = forward(direction * scale)
    size = float(there.double().norm())
    if size == 0.0:
        if bool((backward(torch.ones_like(there) * scale) != 0).any()):
            raise ProblemError("J v is zero although J^T u is not")
        return
    unit = (there.double() * (there.numel() ** 0.5 / size)).to(there.dtype)
    back = backward(unit * scale)
    expected = float((unit.double() * there.double()).sum())
    found = float((back.double() * direction.double()).sum())
    if not abs(expected - found) <= torch.finfo(there.dtype).eps ** 0.5 * abs(expected):
        raise ProblemError("v J^T J v is not the square of J v")


def _random_like(tensor: Tensor) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device, tensor.dtype)
