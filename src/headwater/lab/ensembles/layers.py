"""What is measured of each family: which module's output, and which weight's gradient."""

from __future__ import annotations

from dataclasses import dataclass

from headwater.networks.families import weight_layers
from headwater.networks.layer_plan import Role
from headwater.networks.specification import NetworkSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredLayer:
    """One column of the measurements.

    Args:
        module: whose output is measured, with norm, activation and shortcut where it has them; the column's name.
        weight: the parameter whose gradient is measured.
    """

    module: str
    weight: str


def measured_layers(spec: NetworkSpec) -> list[MeasuredLayer]:
    """The weight layers in forward order, gates left out.

    >>> measured_layers(NetworkSpec(depth=1))[0]
    MeasuredLayer(module='layers.0', weight='layers.0.linear.weight')
    """
    names = [layer.module for layer in weight_layers(spec) if layer.role is not Role.GATE]
    return [MeasuredLayer(module=name.removesuffix(".linear"), weight=f"{name}.weight") for name in names]
