"""What an ensemble is said to hold is what its backward pass reads, for every kind of mlp."""

from __future__ import annotations

import pytest
import torch

from headwater.lab.ensembles import measure_ensemble
from headwater.lab.ensembles.batched import bytes_per_mlp
from headwater.networks import NetworkSpec, initial_parameters
from headwater.networks.specification import NORMALISATIONS, SHORTCUTS


def bytes_held(spec, inputs):
    """Of all that autograd keeps, each piece of memory once; the weights are in it."""
    held = {}

    def note(tensor):
        held[tensor.untyped_storage().data_ptr()] = (tensor, tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        measure_ensemble(spec, [0], inputs)
    return sum(size for _, size in held.values())


@pytest.mark.parametrize("num_samples", [2, 64])
@pytest.mark.parametrize("normalisation", NORMALISATIONS)
@pytest.mark.parametrize("shortcut", SHORTCUTS)
def test_an_mlp_holds_no_more_than_is_said_and_no_less_than_half(shortcut, normalisation, num_samples):
    spec = NetworkSpec(depth=10, width=32, activation="gelu", normalisation=normalisation, shortcut=shortcut)
    said, held = bytes_per_mlp(spec, num_samples, itemsize=4), bytes_held(spec, torch.randn(num_samples, 16))
    assert held <= said
    assert said <= 2 * held


def test_the_groups_are_as_large_as_memory_allows(monkeypatch):
    from headwater.lab.ensembles import measure

    sizes = []

    def noted(spec, seeds, **options):
        sizes.append(len(seeds))
        return initial_parameters(spec, seeds, **options)

    monkeypatch.setattr(measure, "initial_parameters", noted)
    spec = NetworkSpec(depth=2, width=8)
    each = bytes_per_mlp(spec, 4, itemsize=4)
    measure_ensemble(spec, range(10), torch.randn(4, 16), max_extra_bytes=4 * each + 1)
    measure_ensemble(spec, range(3), torch.randn(4, 16), max_extra_bytes=1)
    assert sizes == [4, 4, 2, 1, 1, 1]
