from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from headwater.lab.ensembles import EnsembleError, measure_ensemble
from headwater.networks import NetworkSpec

SPEC = NetworkSpec(depth=2, width=4, num_inputs=3, num_outputs=2)
INPUTS = torch.ones(5, 3)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (dict(spec="mlp depth=2"), "expected a NetworkSpec, got a str: NetworkSpec.parse reads a line"),
        (dict(seeds=[]), "expected one or more seeds, as in range(100), got none"),
        (dict(seeds=64), "expected one or more seeds, as in range(100), got 64"),
        (dict(seeds="12"), "expected one or more seeds, as in range(100), got '12'"),
        (dict(seeds=[0, 1.5]), "expected every seed to be a whole number, got 1.5"),
        (dict(seeds=[True]), "expected every seed to be a whole number, got True"),
        (dict(inputs=np.ones((5, 3))), "expected a floating-point tensor as inputs, got a ndarray"),
        (
            dict(inputs=torch.ones(5, 3, dtype=torch.int64)),
            "expected a floating-point tensor as inputs, got one of torch.int64",
        ),
        (dict(inputs=torch.ones(5, 4)), "expected an input of shape (samples, 3), got (5, 4)"),
        (dict(inputs=torch.ones(3)), "expected an input of shape (samples, 3), got (3,)"),
        (dict(inputs=torch.ones(0, 3)), "expected one or more samples as inputs, got none in shape (0, 3)"),
        (dict(method="fast"), "expected method to be one of auto, batched, vmap, loop, got 'fast'"),
        (dict(max_extra_bytes=0), "expected max_extra_bytes to be a number of bytes from 1, got 0"),
        (dict(cotangent=torch.ones(2, 5)), "expected a cotangent of the output's shape (5, 2), got (2, 5)"),
        (dict(cotangent=1.0), "expected the cotangent to be a tensor, got a float"),
        (dict(cotangent=torch.ones(5, 2), loss=torch.sum), "expected a cotangent or a loss, got both: leave one out"),
        (
            dict(targets=torch.ones(5, 2)),
            "expected a loss to compare the output with the targets, got targets alone: pass loss=",
        ),
        (dict(loss="mse"), "expected loss to be a function of (output, targets), got a str"),
        (
            dict(loss=lambda output: output),
            "expected the loss of one network to be one number as a tensor, got shape (5, 2)",
        ),
        (dict(loss=lambda output: 1.0), "expected the loss of one network to be one number as a tensor, got a float"),
        (
            dict(loss=lambda output: torch.tensor(1.0)),
            "expected a loss that depends on the output, got one without a gradient",
        ),
    ],
)
def test_it_is_refused_in_one_sentence(changed, sentence):
    arguments = dict(spec=SPEC, seeds=[0, 1], inputs=INPUTS) | changed
    with pytest.raises(EnsembleError, match=f"^{re.escape(sentence)}$"):
        measure_ensemble(arguments.pop("spec"), arguments.pop("seeds"), arguments.pop("inputs"), **arguments)


def test_one_sample_has_no_batch_norm():
    spec = NetworkSpec(depth=2, width=4, num_inputs=3, normalisation="batch")
    with pytest.raises(EnsembleError, match="expected two or more samples for normalisation 'batch', got 1"):
        measure_ensemble(spec, [0], INPUTS[:1])


@pytest.mark.parametrize(
    ("line", "shape", "sentence"),
    [
        ("conv depth=10", (2, 16, 8), "expected an input of shape (samples, 16, height, width), got (2, 16, 8)"),
        ("transformer depth=1", (2, 5, 3), "expected an input of shape (samples, positions, 16), got (2, 5, 3)"),
        ("lstm depth=4", (2, 5, 16), "expected an input of shape (samples, 4, 16), got (2, 5, 16)"),
        (
            "conv depth=10 normalisation=batch",
            (1, 16, 8, 8),
            "expected two or more samples for normalisation 'batch', got 1: use more, or another norm",
        ),
    ],
)
def test_inputs_of_another_family_are_refused(line, shape, sentence):
    with pytest.raises(EnsembleError, match=f"^{re.escape(sentence)}$"):
        measure_ensemble(NetworkSpec.parse(line), [0], torch.ones(shape))


def test_batched_products_are_for_mlps():
    sentence = "method 'batched' is there for mlp, got family 'conv': use one of auto, vmap, loop"
    with pytest.raises(EnsembleError, match=sentence):
        measure_ensemble(NetworkSpec(family="conv", depth=10), [0], torch.ones(2, 16, 8, 8), method="batched")


def test_a_loss_that_raises_raises_its_own_error():
    with pytest.raises(KeyError, match="mine"):
        measure_ensemble(SPEC, [0], INPUTS, loss=lambda output: {}["mine"])


def test_seeds_may_be_any_whole_numbers():
    measured = measure_ensemble(SPEC, np.arange(3), INPUTS)
    again = measure_ensemble(SPEC, iter([0, 1, 2]), INPUTS)
    np.testing.assert_array_equal(measured.gain_decades, again.gain_decades)
