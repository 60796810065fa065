"""What a fused recurrent module does to the gradient from time step to time step: it runs once more, in float64, on a copy.

A fused module is one call to autograd, and the gradient at its inputs is one tensor. In float32 that tensor ends at 1e-45, which
a sequence of a hundred steps reaches; raw data wants no gradient at all. The copy knows neither limit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from headwater.capture.noting import Notes
from headwater.capture.recurrent_calls import RecurrentCall
from headwater.recording import Combine, Series

# Entry k of each is for the time step that lies k before the last one of its sequence that the loss depends on.
STEP_GRADIENT = "squared_step_gradient"  # of the loss, at the inputs of the step: summed over sequences
READ_GRADIENT = "squared_read_gradient"  # of the loss, sent directly to the outputs of the step: summed over sequences
STEP_SEQUENCES = "num_step_sequences"  # that reach so far
CARRIED_GRADIENT = "squared_carried_gradient"  # at the inputs, of a random cotangent at the end of each sequence
CARRIED_SEQUENCES = "num_carried_sequences"


def time_steps_of(kept: RecurrentCall, place: tuple[str, int], scale_exponent: int, notes: Notes) -> list[Series]:
    """The gradient per time step of one call, as series; none where no gradient arrived or it is not finite.

    Args:
        kept: with the gradients that arrived at its outputs.
        place: the module's path, and the depth of the call.
        scale_exponent: the loss was scaled by two to this power.
        notes: where it is said if the probe fails.
    """
    if not kept.gradients:
        return []
    try:
        found = _probed(kept, 4.0**-scale_exponent)
    except Exception as error:  # noqa: BLE001 - a device without float64, a subclass with other weights
        notes[f"The time steps of a {type(kept.module).__name__} were not observed: {error!r:.200}."] = None
        return []
    module, depth = place
    if not all(np.isfinite(values).all() for values in found.values()):
        return []  # HW104's
    return [Series(name, module, depth, "", Combine.SUM, values) for name, values in found.items()]


def _probed(kept: RecurrentCall, scale: float) -> dict[str, np.ndarray]:
    given = kept.inputs
    data = (given.data if isinstance(given, PackedSequence) else given).requires_grad_()
    copy = _wide(kept.module, data.device)
    states = kept.states[0] if len(kept.states) == 1 else kept.states or None
    with torch.autocast(data.device.type, enabled=False):
        # Not __call__: the user's process-wide hooks see nothing.
        output, final = copy.forward(given, states)
    parts = {"output": output.data if isinstance(output, PackedSequence) else output}
    parts |= zip(("hidden", "cell"), (final,) if isinstance(final, Tensor) else final, strict=False)
    carried = torch.autograd.grad(parts["hidden"], data, _at_the_end(copy, parts["hidden"]), retain_graph=True)[0]
    roots = [parts[name] for name in kept.gradients]
    sent = torch.autograd.grad(roots, data, list(kept.gradients.values()))[0]
    steps, read = _squares(kept, sent), _read_squares(kept)
    ends = _last_step((steps > 0) | (read > 0))
    carries = _squares(kept, carried)
    carry_ends = _last_step(carries > 0)
    return {
        STEP_GRADIENT: scale * _from_the_end(steps, ends),
        READ_GRADIENT: scale * _from_the_end(read, ends),
        STEP_SEQUENCES: _from_the_end(np.ones_like(steps), ends),
        CARRIED_GRADIENT: _from_the_end(carries, carry_ends),
        CARRIED_SEQUENCES: _from_the_end(np.ones_like(carries), carry_ends),
    }


def _wide(module: nn.RNNBase, device: torch.device) -> nn.RNNBase:
    """A float64 copy of the values, without hooks, parametrisations and dropout; cuDNN differentiates in training mode only."""
    settings: dict[str, Any] = {
        "num_layers": module.num_layers,
        "bias": module.bias,
        "batch_first": module.batch_first,
        "bidirectional": module.bidirectional,
    }
    if module.mode == "LSTM":
        kind, settings["proj_size"] = nn.LSTM, module.proj_size
    elif module.mode == "GRU":
        kind = nn.GRU
    else:
        kind, settings["nonlinearity"] = nn.RNN, "tanh" if module.mode == "RNN_TANH" else "relu"
    copy = kind(module.input_size, module.hidden_size, device="meta", dtype=torch.float64, **settings)
    copy = copy.to_empty(device=device).requires_grad_(False)
    with torch.no_grad():
        for name, values in copy.named_parameters():
            values.copy_(getattr(module, name))
    copy.flatten_parameters()
    return copy


def _at_the_end(module: nn.RNNBase, hidden: Tensor) -> Tensor:
    """A cotangent N(0, 1) at the last state of the last layer that runs forward in time."""
    generator = torch.Generator().manual_seed(0)
    cotangent = torch.zeros_like(hidden)
    row = -2 if module.bidirectional else -1
    cotangent[row] = torch.randn(hidden[row].shape, generator=generator, dtype=torch.float64).to(hidden.device)
    return cotangent


def _squares(kept: RecurrentCall, rows: Tensor) -> np.ndarray:
    """Sums of squares over the features of each step of each sequence, shape (steps, sequences)."""
    squares = rows.square().sum(-1)
    if isinstance(kept.inputs, PackedSequence):  # its rows stay sorted by length
        sorted_rows = PackedSequence(squares.unsqueeze(-1), kept.inputs.batch_sizes)
        squares = pad_packed_sequence(sorted_rows)[0].squeeze(-1)
    elif squares.dim() == 1:  # one sequence, without a batch
        squares = squares.unsqueeze(1)
    elif kept.module.batch_first:
        squares = squares.T
    return squares.cpu().numpy()


def _read_squares(kept: RecurrentCall) -> np.ndarray:
    """What the loss sends to each step's outputs; to a final state, to the step it was made at, shape (steps, sequences)."""
    inputs = kept.inputs.data if isinstance(kept.inputs, PackedSequence) else kept.inputs
    squares = _squares(kept, kept.gradients["output"] if "output" in kept.gradients else torch.zeros_like(inputs))
    ends = _lengths(kept, squares.shape) - 1
    sequences = np.arange(squares.shape[1])
    for name in ("hidden", "cell"):
        gradient = kept.gradients.get(name)
        if gradient is None:
            continue
        per_state = gradient.square().sum(-1)
        per_state = per_state.unsqueeze(1) if per_state.dim() == 1 else per_state
        if isinstance(kept.inputs, PackedSequence) and kept.inputs.sorted_indices is not None:
            per_state = per_state.index_select(1, kept.inputs.sorted_indices)
        forward, *backward = per_state.reshape(kept.module.num_layers, -1, len(sequences)).sum(0).cpu().numpy()
        squares[ends, sequences] += forward
        squares[0] += sum(backward)
    return squares


def _lengths(kept: RecurrentCall, shape: tuple[int, ...]) -> np.ndarray:
    """Of each sequence, in steps."""
    if not isinstance(kept.inputs, PackedSequence):
        return np.full(shape[1], shape[0])
    return (kept.inputs.batch_sizes.numpy()[:, None] > np.arange(shape[1])).sum(0)


def _last_step(is_reached: np.ndarray) -> np.ndarray:
    """The last step of each sequence that is; -1 where none is."""
    backwards = is_reached[::-1]
    return np.where(is_reached.any(0), len(is_reached) - 1 - backwards.argmax(0), -1)


def _from_the_end(squares: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Sums over the sequences, by the number of steps before the last one."""
    steps = ends - np.arange(ends.max(initial=-1) + 1)[:, None]
    return np.where(steps >= 0, np.take_along_axis(squares, steps.clip(0), 0), 0.0).sum(1)
