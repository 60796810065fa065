from __future__ import annotations

import pytest
import torch

from headwater.cli.demo.seed_study import seed_study


@pytest.fixture(scope="module")
def study():
    return seed_study()


def test_the_medians_of_first_to_last_are_those_of_the_record(study):
    assert study.first_to_last_without.value == pytest.approx(0.0097, rel=0.15)
    assert study.first_to_last_with.value == pytest.approx(0.122, rel=0.05)


def test_shortcuts_bring_60_to_80_times_more_gradient_to_the_first_layer(study):
    low, high = study.gain.low, study.gain.high
    assert low < 62 < high
    assert low < study.gain.value < high
    assert study.num_seeds_with_gain > 0.95 * study.num_seeds == 190


def test_the_study_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    seed_study(2)
    assert torch.equal(torch.get_rng_state(), before)
