from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.analysis import loss_scale
from headwater.capture import Problem, observe
from headwater.diagnosis import diagnose
from tests.rules import broken_networks as broken


def network():
    torch.manual_seed(0)
    return broken.plain(nn.Tanh, 4, 16, nn.init.xavier_normal_)


@pytest.mark.parametrize(
    ("scale", "word"), [(1.0, None), (65536.0, None), (1e-3, None), (1e8, "steep"), (1e-12, "flat"), (1e12, "steep")]
)
def test_a_loss_that_is_badly_scaled_is_named_and_the_network_is_not_blamed(scale, word):
    diagnosis = diagnose(network(), broken.gaussian(32, 16), loss=lambda out: scale * (out - 1.0).square().mean())
    assert not [finding for finding in diagnosis.findings if finding.severity > 1]
    if word is None:
        assert diagnosis.loss_scale is None
        assert "The loss is" not in diagnosis.to_text()
    else:
        assert f"The loss is {word}" in diagnosis.to_text(width=200)
        assert f"The loss is {word}" in diagnosis._repr_html_()
        assert diagnosis.to_dict()["loss_scale"]["slope"] == pytest.approx(diagnosis.loss_scale.slope)


def test_the_slope_is_the_change_of_the_loss_where_every_output_moves_by_one():
    model, inputs = network(), broken.gaussian(8, 16)
    recording = observe(Problem(model, inputs, loss=lambda out: 1e9 * out.sum()))
    assert loss_scale(recording).slope == pytest.approx(8 * 10 * 1e9)  # eight samples of ten outputs


def test_random_cotangents_and_a_loss_of_exactly_zero_are_not_badly_scaled():
    model, inputs = network(), broken.gaussian(8, 16)
    assert loss_scale(observe(Problem(model, inputs))) is None
    assert loss_scale(observe(Problem(model, inputs, loss=lambda out: (0.0 * out).sum()))) is None
