from __future__ import annotations

import math

import pytest
import torch

from headwater.cli.demo import notebook

# Mean absolute weight gradients per layer, as the notebook printed them.
WITHOUT = (
    0.00020174118981231004,
    0.00012011769285891205,
    0.0007152436301112175,
    0.00139885104727,
    0.005049602594226599,
)
WITH = (0.22186800837516785, 0.20709273219108582, 0.3292388319969177, 0.2667772173881531, 1.3268063068389893)


@pytest.fixture(scope="module")
def recordings():
    return notebook.record_variants()


@pytest.fixture(scope="module")
def rows(recordings):
    return notebook.compare_layers(*recordings.values())


def test_the_recordings_hold_the_notebooks_ten_numbers(rows):
    assert [row.without for row in rows] == pytest.approx(WITHOUT, rel=1e-6)
    assert [row.with_shortcuts for row in rows] == pytest.approx(WITH, rel=1e-6)


def test_the_factors_multiply_to_the_ratio(rows):
    for row in rows:
        factors = row.factors
        product = factors.loss_slope * factors.backward_gain * factors.forward_signal * factors.alignment
        assert product == pytest.approx(factors.ratio, rel=1e-9)
        assert factors.ratio == pytest.approx(row.with_shortcuts / row.without, rel=1e-9)
        assert factors.alignment == pytest.approx(1.0, rel=1e-6)


def test_layer_0_is_1099_times_of_which_the_loss_is_12_57_and_the_architecture_87(rows):
    factors = rows[0].factors
    assert math.floor(factors.ratio) == 1099
    assert factors.loss_slope == pytest.approx(12.575, abs=1e-3)
    assert factors.forward_signal == 1.0
    assert factors.architecture == pytest.approx(87.45, abs=0.01)


def test_the_middle_column_is_zero_because_the_input_is():
    model = notebook.build(use_shortcut=False)
    model(notebook.sample()).square().mean().backward()
    gradient = model.get_parameter("layers.0.0.weight").grad
    assert torch.equal(gradient[:, 1], torch.zeros(3))
    assert (gradient[:, [0, 2]] != 0).all()


def test_both_variants_have_the_same_weights():
    plain, shortcut = (notebook.build(use_shortcut=use) for use in (False, True))
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), shortcut.parameters(), strict=True))
