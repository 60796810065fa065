"""Where a network is cut open to move the samples and read their gradients: behind its first layer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from headwater.capture import torch_internals
from headwater.capture.functional_products import is_product, parameter_multiplied
from headwater.capture.layers import layers_of
from headwater.capture.slices import CannotTellApartError

_LISTS = (nn.ParameterList, nn.ParameterDict)


class Seam:
    """The output of the first layer that has weights and returns a row for each sample: a module, or a product in functional code.

    Args:
        model: whose layers are looked at.
        num_samples: rows.
    """

    def __init__(self, model: nn.Module, num_samples: int) -> None:
        self.num_samples = num_samples
        self.name = ""  # of the module, or of the one that the product's parameter belongs to; once it is found
        self._place: nn.Module | int | None = None  # a module, or the id of a parameter
        self._layers = [module for module in layers_of(model) if not torch_internals.is_script_module(module)]
        self._names = {id(module): name for name, module in model.named_modules()}
        self._owners = {
            id(parameter): name
            for name, module in model.named_modules()
            for parameter in module.parameters(recurse=False)
            # What torch's own layers multiply by is seen at their outputs.
            if isinstance(module, _LISTS) or not type(module).__module__.startswith("torch.nn.")
        }
        self._output: Tensor | None = None  # in the first run
        self._leaf: Tensor | None = None

    @contextmanager
    def opened(self, step: float, shift: int) -> Iterator[None]:
        """Inside, the layer returns points that lie `step` of the way from each sample to the one `shift` before it."""
        self._leaf = None
        candidates = self._layers if self._place is None else [self._place]
        hook = partial(self._at_module, step, shift)
        handles = [layer.register_forward_hook(hook) for layer in candidates if isinstance(layer, nn.Module)]
        try:
            with _Products(partial(self._at_product, step, shift)):
                yield
        finally:
            for handle in handles:
                torch_internals.remove_hook(handle)

    def _at_module(self, step: float, shift: int, layer: nn.Module, _: Any, output: Any) -> Tensor | None:
        if self._leaf is not None:
            is_again = torch_internals.backward_is_running() and layer is self._place  # a checkpoint's second forward
            return self._leaf.clone() if is_again else None
        if not self._has_rows(output):
            return None
        self._place, self.name = layer, self._names[id(layer)]
        return self._moved(output, step, shift)

    def _at_product(self, step: float, shift: int, parameter: Tensor, output: Any) -> Any:
        is_here = self._place is None or self._place == id(parameter)
        if self._leaf is not None or id(parameter) not in self._owners or not is_here or not self._has_rows(output):
            return output
        self._place, self.name = id(parameter), self._owners[id(parameter)]
        return self._moved(output, step, shift)

    def _moved(self, output: Tensor, step: float, shift: int) -> Tensor:
        here = output.detach().clone() if self._output is None else self._output
        self._output = here
        partner = here.roll(1 + (shift - 1) % (self.num_samples - 1), 0)
        points = torch.lerp(here, partner, step) if step else here.clone()
        self._leaf = leaf = points.requires_grad_()
        return leaf.clone()  # so that an in-place operation may follow

    def _has_rows(self, output: Any) -> bool:
        return (
            type(output) is Tensor
            and output.is_floating_point()
            and output.dim() > 1
            and len(output) == self.num_samples
        )

    def rows(self, cotangent: tuple[Tensor, Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        """The points and their gradients, float64, shape (samples, entries)."""
        output, sent, signs = cotangent
        if self._leaf is None:
            raise CannotTellApartError("no layer returned one tensor with a row for each sample")
        (gradient,) = torch.autograd.grad([output], [self._leaf], [sent], allow_unused=True)
        if gradient is None:
            raise CannotTellApartError("no gradient reaches the first layer")
        wide = gradient.detach().flatten(1).double() * signs[:, None]
        if not torch.isfinite(wide).all():
            raise CannotTellApartError("the gradient at the first layer is not finite")
        return self._leaf.detach().flatten(1).double(), wide


class _Products(TorchFunctionMode):
    """Inside, the results of products of data with a parameter may be replaced.

    Args:
        replaced: gives, for the parameter and the result, what is returned in its place.
    """

    def __init__(self, replaced: Any) -> None:
        super().__init__()
        self._replaced = replaced

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not is_product(func):
            return result
        parameter = parameter_multiplied(args, kwargs or {})
        if parameter is None:
            return result
        with torch_internals.without_function_modes():
            return self._replaced(parameter, result)
