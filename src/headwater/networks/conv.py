"""Plain and residual conv nets in the 10-, 18- and 34-layer shapes of He et al. 2015, for small images."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from headwater.networks.activation_functions import activation_module
from headwater.networks.empty_layers import empty_conv, empty_linear
from headwater.networks.input_check import check_input
from headwater.networks.layer_plan import LayerPlan, Role
from headwater.networks.normalisation import image_norm_module
from headwater.networks.shortcuts import SUMMED, add_branch, branch_alpha, branch_scale
from headwater.networks.specification import NetworkSpec

_BLOCKS_OF_STAGES = {10: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3)}


class ConvStem(nn.Module):
    """The first convolution, from the image to `width` channels; with norm and activation if norms stand after weights.

    Args:
        spec: of the network.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.conv = empty_conv(spec.num_inputs, spec.width, has_bias=_has_bias(spec))
        is_after = spec.norm_position == "post"
        self.norm = image_norm_module(spec.normalisation if is_after else "none", spec.width)
        self.activation = activation_module(spec.activation if is_after else "linear")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The images of the first stage."""
        return self.activation(self.norm(self.conv(x)))


class ConvBlock(nn.Module):
    """Two 3 x 3 convolutions and their shortcut, the basic block of He et al. (2015, arXiv 1512.03385).

    "post": act(x + norm(conv2(act(norm(conv1(x)))))). "pre" is the order of He et al. (2016, arXiv 1603.05027):
    x + conv2(act(norm(conv1(act(norm(x)))))). A block that halves the image and widens it has the parameter-free shortcut: means
    over 2 x 2 positions, and zeros for the new channels, so that plain and residual nets have the same parameters.

    Args:
        spec: of the network.
        num_inputs: channels that it reads.
        num_outputs: channels that it returns.
    """

    def __init__(self, spec: NetworkSpec, num_inputs: int, num_outputs: int) -> None:
        super().__init__()
        self.is_pre, self.is_summed = spec.norm_position == "pre", spec.shortcut in SUMMED
        self.stride = 1 if num_inputs == num_outputs else 2
        self.new_channels = num_outputs - num_inputs
        self.scale = branch_scale(spec)
        self.norm1 = image_norm_module(spec.normalisation, num_inputs if self.is_pre else num_outputs)
        self.conv1 = empty_conv(num_inputs, num_outputs, stride=self.stride, has_bias=_has_bias(spec))
        self.norm2 = image_norm_module(spec.normalisation, num_outputs)
        self.conv2 = empty_conv(num_outputs, num_outputs, has_bias=_has_bias(spec))
        self.activation1, self.activation2 = activation_module(spec.activation), activation_module(spec.activation)
        self.alpha = branch_alpha(spec)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """What the block returns, its shortcut included."""
        branch = self.branch(x)
        total = add_branch(self.shortcut(x), branch, self.scale, self.alpha) if self.is_summed else branch
        return total if self.is_pre else self.activation2(total)

    def branch(self, x: torch.Tensor) -> torch.Tensor:
        """The block without its shortcut, and without an activation after the sum."""
        if self.is_pre:
            x = self.conv1(self.activation1(self.norm1(x)))
            return self.conv2(self.activation2(self.norm2(x)))
        return self.norm2(self.conv2(self.activation1(self.norm1(self.conv1(x)))))

    def shortcut(self, x: torch.Tensor) -> torch.Tensor:
        """The block's input in the shape of its output."""
        if self.stride == 1:
            return x
        window = [min(size, 2) for size in x.shape[-2:]]
        pooled = F.avg_pool2d(x, window, ceil_mode=True)
        return F.pad(pooled, (0, 0, 0, 0, 0, self.new_channels))


class ConvNet(nn.Module):
    """A stem `layers.0`, basic blocks `layers.1` ..., means over positions, and the linear output layer `head`.

    Four stages of 1, 2, 4 and 8 times `width` channels; each after the first halves the image.

    Args:
        spec: of family "conv".
    """

    def __init__(self, spec: NetworkSpec) -> None:
        super().__init__()
        self.num_inputs = spec.num_inputs
        blocks = [ConvBlock(spec, *channels) for channels in _block_channels(spec)]
        self.layers = nn.ModuleList([ConvStem(spec), *blocks])
        is_pre = spec.norm_position == "pre"
        self.norm = image_norm_module(spec.normalisation if is_pre else "none", 8 * spec.width)
        self.activation = activation_module(spec.activation if is_pre else "linear")
        self.head = empty_linear(8 * spec.width, spec.num_outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The output, (batch, num_outputs), for x of (batch, num_inputs, height, width).

        Raises:
            ValueError: the input has another shape.
        """
        check_input(x, ("batch", self.num_inputs, "height", "width"))
        for layer in self.layers:
            x = layer(x)
        return self.head(self.activation(self.norm(x)).mean(dim=(-2, -1)))


def conv_layers(spec: NetworkSpec) -> list[LayerPlan]:
    """The weight layers in forward order: as many as the network's depth.

    >>> layers = conv_layers(NetworkSpec(family="conv", depth=18, width=8))
    >>> len(layers), layers[1].module, layers[-2].shape
    (18, 'layers.1.conv1', (64, 64, 3, 3))
    """
    kernel, has_bias, is_summed = (3, 3), _has_bias(spec), spec.shortcut in SUMMED
    layers = [
        LayerPlan(
            module="layers.0.conv", num_outputs=spec.width, num_inputs=spec.num_inputs, kernel=kernel, has_bias=has_bias
        )
    ]
    for index, (num_inputs, num_outputs) in enumerate(_block_channels(spec), start=1):
        for conv, sources, role in (("conv1", num_inputs, Role.BRANCH), ("conv2", num_outputs, Role.BRANCH_END)):
            layers.append(
                LayerPlan(
                    module=f"layers.{index}.{conv}",
                    num_outputs=num_outputs,
                    num_inputs=sources,
                    kernel=kernel,
                    has_bias=has_bias,
                    role=role if is_summed else Role.PLAIN,
                )
            )
    head = LayerPlan(module="head", num_outputs=spec.num_outputs, num_inputs=8 * spec.width, role=Role.HEAD)
    return [*layers, head]


def _block_channels(spec: NetworkSpec) -> list[tuple[int, int]]:
    """Channels that each block reads and returns."""
    returned = [
        spec.width * 2**stage
        for stage, num_blocks in enumerate(_BLOCKS_OF_STAGES[spec.depth])
        for _ in range(num_blocks)
    ]
    return list(zip([spec.width, *returned], returned, strict=False))


def _has_bias(spec: NetworkSpec) -> bool:
    return spec.normalisation == "none"  # a norm has biases of its own
