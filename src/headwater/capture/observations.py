"""What the observer notes of a pass while it runs: calls, the tensors they read and return, their measurements."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import FrameType
from typing import Any

from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.utils.hooks import RemovableHandle

from headwater.capture.input_gradients import Edge, Exit
from headwater.recording import TensorStats

Measured = TensorStats | Tensor  # a tensor stands for moments still on their device


@dataclass(slots=True, eq=False)
class ObservedTensor:
    """One tensor of the pass, in one version, however many calls read or return it."""

    shape: tuple[int, ...]
    dtype: str
    producer: nn.Module | None = None  # the innermost module that returned it
    stats: Measured | None = None
    gradients: list[Measured] = field(default_factory=list)  # one per backward pass
    is_hooked: bool = False
    sequence_number: int = -1  # of the autograd node that is hooked; -1 for a leaf


@dataclass(slots=True, eq=False)
class ObservedInput:
    """One tensor as one call reads it."""

    path: str
    tensor: ObservedTensor
    source: Edge | None = None  # where autograd reads it from; only while the call runs
    edges: list[Edge] = field(default_factory=list)  # only until the caller has returned
    gradients: list[Measured] = field(default_factory=list)  # this call's share, one per backward pass


@dataclass(slots=True, eq=False)
class ObservedCall:
    """One run of one module."""

    module: nn.Module
    parent: ObservedCall | None
    grad_enabled: bool
    first_sequence_number: int  # of the autograd nodes made during the call
    end_sequence_number: int = -1  # the one after the last of them; -1 until the call has returned
    inputs: list[ObservedInput] = field(default_factory=list)
    outputs: list[tuple[str, ObservedTensor]] = field(default_factory=list)
    input_requires_grad: bool = False
    output_requires_grad: bool = False
    output_is_floating: bool = False
    finished: bool = False
    line: tuple[str, int] = ("", 0)  # file and number of the line that called it, where lines are traced
    args_before_hooks: tuple[Any, ...] | None = None  # where the user's own pre-hooks may replace them
    units: tuple[Tensor, Tensor, int] | None = None
    inside: dict[str, Tensor] = field(default_factory=dict)  # of a fused recurrent module's tanh, by layer
    spread: float | None = None  # of the rows of the first output
    read_spread: float | None = None  # of the rows of the first input, of the last layer
    frame: FrameType | None = None  # that runs the call; only while it does
    is_second_run: bool = False  # of a reentrant checkpoint, inside the backward pass
    late_hook: RemovableHandle | None = None
    children: list[ObservedCall] = field(default_factory=list)  # until the outermost caller has returned
    output_nodes: set[Node] = field(default_factory=set)  # until the outermost caller has returned
    exits: dict[Node, list[Exit]] = field(
        default_factory=dict
    )  # of its graph, by output; until the caller has returned

    def forget_graph(self) -> None:
        """Lets go of all that would keep the user's graph alive."""
        self.frame = None
        self.output_nodes = set()
        self.exits = {}
        self.children = []
        self.args_before_hooks = None
        if self.late_hook is not None:
            self.late_hook.remove()
            self.late_hook = None
        for read in self.inputs:
            read.source = None
            read.edges = []
