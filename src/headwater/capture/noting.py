"""What cannot be observed becomes a note, and the user's pass goes on."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Protocol

from torch import Tensor

from headwater.capture import torch_internals
from headwater.capture.moments import UnmeasurableError, measure_lazily, measure_sum_lazily
from headwater.capture.observations import Measured

Notes = dict[str, None]  # sentences in the order they came, each once


class _TakesNotes(Protocol):
    notes: Notes


def noting_failures(hook: Callable[..., None]) -> Callable[..., None]:
    """The hook, unseen by the user's modes. Where it fails, the user's pass goes on and the recording says so."""

    @functools.wraps(hook)
    def guarded(self: _TakesNotes, *args: Any) -> None:
        try:
            with torch_internals.without_function_modes():
                if not torch_internals.num_dispatch_modes():
                    hook(self, *args)
                    return
                with torch_internals.without_dispatch_modes():
                    hook(self, *args)
        except Exception as error:  # noqa: BLE001 - whatever a user's types do to us
            self.notes[f"A part of the pass was not observed: {error!r:.300}."] = None

    return guarded


def measured_sum(tensors: list[Tensor], owner: str, notes: Notes, *, exponents: bool = False) -> Measured | None:
    """The moments of the sum of one or more tensors; None and a note where they cannot be measured.

    Args:
        tensors: of one shape.
        owner: what they are, to begin a sentence with.
        notes: where the note goes.
        exponents: also count the elements per binary exponent.
    """
    try:
        if len(tensors) == 1:
            return measure_lazily(tensors[0], exponents=exponents)
        return measure_sum_lazily(tensors, exponents=exponents)
    except UnmeasurableError as error:
        notes[f"{owner} could not be measured: {error}."] = None
    except Exception as error:  # noqa: BLE001 - the user's pass must go on whatever a tensor subclass does to us
        notes[f"{owner} could not be measured: {type(tensors[0]).__name__} raised {error!r:.200}."] = None
    return None
