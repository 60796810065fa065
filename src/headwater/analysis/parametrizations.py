"""Parametrised weights (`torch.nn.utils.parametrize`): the modules that compute a weight run inside of the layer that uses it, and are none."""

from __future__ import annotations

from headwater.recording import Call, Recording

_PLACE = "parametrizations"  # where PyTorch keeps them in a layer


def layer_of(module: str) -> str:
    """The layer whose weight a module computes; of any other module, itself.

    >>> layer_of("net.0.parametrizations.weight.0"), layer_of("parametrizations.weight"), layer_of("net.0")
    ('net.0', '', 'net.0')
    """
    parts = module.split(".")
    return ".".join(parts[: parts.index(_PLACE)]) if _PLACE in parts else module


def is_leaf(recording: Recording, call: Call) -> bool:
    """Whether a call made no other one, but those that compute its weights; these are none.

    >>> from headwater.recording import RecordingBuilder
    >>> builder = RecordingBuilder()
    >>> layer = builder.add_call(builder.add_module("0", "ParametrizedLinear"))
    >>> _ = builder.add_call(builder.add_module("0.parametrizations.weight", "ParametrizationList"), parent=layer)
    >>> recording = builder.build()
    >>> [is_leaf(recording, call) for call in recording.calls]
    [True, False]
    """
    if layer_of(call.module) != call.module:
        return False
    return all(layer_of(recording.calls[child].module) == call.module for child in recording.children(call.depth))
