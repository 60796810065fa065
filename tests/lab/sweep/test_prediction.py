"""Theory of a specification beside what its networks do."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from headwater.lab.ensembles import measure_ensemble
from headwater.lab.sweep.prediction import Prediction, predict
from headwater.lab.sweep.statistics import rates
from headwater.networks import NetworkSpec
from headwater.theory.mean_field import depth_scale

BATCH, WIDTH, DEPTH = 64, 192, 16
LINES = (
    "mlp activation=tanh",
    "mlp activation=relu initialisation=he",
    "mlp activation=gelu initialisation=glorot bias_variance=0.1",
    "mlp activation=sigmoid weight_variance=3.0 bias_variance=0.05",
    "mlp activation=silu initialisation=orthogonal",
    "mlp activation=tanh initialisation=lsuv",
    "mlp activation=relu normalisation=layer",
    "mlp activation=relu normalisation=layer norm_position=post",
    "mlp activation=gelu normalisation=rms norm_position=post",
    "mlp activation=gelu normalisation=rms initialisation=he",
    "mlp activation=tanh normalisation=batch norm_position=post",
    "mlp activation=tanh normalisation=batch norm_position=pre initialisation=he",
    "mlp activation=tanh shortcut=identity",
    "mlp activation=tanh shortcut=scaled initialisation=critical",
    "mlp activation=tanh shortcut=identity normalisation=layer norm_position=post",
    "mlp activation=tanh shortcut=identity normalisation=layer",
    "mlp activation=linear shortcut=identity initialisation=he normalisation=rms",
    "mlp activation=tanh shortcut=learned initialisation=lecun",
    "mlp activation=relu shortcut=identity initialisation=rezero",
    "mlp activation=tanh shortcut=identity initialisation=deepnorm",
)


@pytest.mark.parametrize("line", LINES)
def test_networks_do_per_layer_what_is_predicted_from_their_specification(line):
    family, *words = line.split()
    spec = NetworkSpec.parse(" ".join([family, f"depth={DEPTH}", f"width={WIDTH}", *words]))
    inputs = torch.randn(BATCH, spec.num_inputs, generator=torch.Generator().manual_seed(1))
    gains = measure_ensemble(spec, range(12), inputs).gain_decades[:, :-1]
    measured = np.median(rates(gains)[0])
    # ln of a squared norm scatters by 5 / n per layer and its median is as much lower (Hanin 2018); two in a hundred for the rest.
    tolerance = math.log10(1.02) + 0.5 * 5.0 / WIDTH / math.log(10.0)
    assert predict(spec, BATCH).rate_decades_per_layer == pytest.approx(measured, abs=tolerance)


@pytest.mark.parametrize("line", ["conv depth=18", "lstm", "transformer", "mlp shortcut=highway", "mlp shortcut=dense"])
def test_where_there_is_no_closed_form_nothing_is_predicted(line):
    assert predict(NetworkSpec.parse(line), BATCH) == Prediction()


def test_batch_norm_of_three_samples_has_no_prediction():
    assert predict(NetworkSpec(normalisation="batch"), 3) == Prediction()


def test_depth_scales_are_those_of_the_fixed_point():
    assert predict(NetworkSpec(activation="relu", initialisation="he"), BATCH).depth_scale_layers == math.inf
    half = predict(
        NetworkSpec(activation="relu", initialisation="lecun"), BATCH
    )  # dies out: chi is 1/2 at any variance
    assert half.depth_scale_layers == pytest.approx(depth_scale(0.5))
    assert half.correlation_depth_scale_layers == pytest.approx(depth_scale(0.5))
    chaotic = predict(NetworkSpec(activation="tanh", weight_variance=3.0, bias_variance=0.05), BATCH)
    assert chaotic.depth_scale_layers is not None
    assert chaotic.correlation_depth_scale_layers is not None
    assert chaotic.depth_scale_layers < chaotic.correlation_depth_scale_layers
    assert predict(NetworkSpec(activation="relu", weight_variance=3.0), BATCH)[1:] == (
        None,
        None,
    )  # grows without bound


def test_one_layer_has_no_rate():
    assert predict(NetworkSpec(depth=1), BATCH).rate_decades_per_layer is None
