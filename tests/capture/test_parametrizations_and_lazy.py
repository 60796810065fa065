"""Weights that are computed from other parameters, or get their shape in the first pass."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, prune

from headwater.capture import Problem, record
from tests.capture.bit_identity import (
    Case,
    assert_observe_leaves_no_trace,
    forward_and_backward,
    recording_of,
)
from tests.capture.hostile_models import batch, small_net
from tests.capture.signals import has
from tests.oracles.moments import assert_moments_match

PARAMETRIZATIONS: dict[str, Callable[[nn.Module], Any]] = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal by matrix exponential": lambda m: parametrizations.orthogonal(m, orthogonal_map="matrix_exp"),
    "orthogonal by Householder": lambda m: parametrizations.orthogonal(m, orthogonal_map="householder"),
    "pruned": lambda m: prune.l1_unstructured(m, "weight", amount=0.5),
    "old spectral norm": torch.nn.utils.spectral_norm,
}


@pytest.mark.parametrize("parametrization", PARAMETRIZATIONS)
def test_a_parametrized_weight_is_recorded_under_the_names_of_its_originals(parametrization: str) -> None:
    def make() -> nn.Module:
        model = small_net()
        PARAMETRIZATIONS[parametrization](model[0])
        return model

    models: list[nn.Module] = []

    def step(case: Case) -> Any:
        models.append(case.model)
        return forward_and_backward(case)

    recording = recording_of(make, batch, step=step)
    names = [name for name, _ in models[-1].named_parameters()]
    assert [parameter.name for parameter in recording.parameters] == names
    for signal in recording.select("weight_gradient"):
        assert_moments_match(signal.stats, models[-1].get_parameter(signal.parameter).grad, rtol=1e-6)
    assert_observe_leaves_no_trace(Problem(make(), batch()))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*is deprecated:FutureWarning")
def test_the_old_weight_norm_runs_the_same() -> None:
    def make() -> nn.Module:
        model = small_net()
        torch.nn.utils.weight_norm(model[0])
        return model

    recording = recording_of(make, batch)
    assert {"0.weight_g", "0.weight_v"} <= {signal.parameter for signal in recording.select("weight_gradient")}


def test_cached_parametrizations_run_the_same() -> None:
    def step(case: Case) -> Any:
        with torch.nn.utils.parametrize.cached():
            return forward_and_backward(case)

    recording = recording_of(lambda: parametrizations.weight_norm(nn.Linear(4, 4)), batch, step=step)
    assert has(recording, "weight_gradient", "parametrizations.weight")


def lazy_net() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(6), nn.LazyBatchNorm1d(), nn.ReLU(), nn.LazyLinear(2))


def test_lazy_modules_are_recorded_from_the_pass_that_gives_them_shapes() -> None:
    recording = recording_of(lazy_net, batch)
    assert all(parameter.initialized for parameter in recording.parameters)
    assert {s.parameter for s in recording.select("weight")} == {p.name for p in recording.parameters}
    assert {s.parameter for s in recording.select("weight_gradient")} == {p.name for p in recording.parameters}


def test_lazy_modules_that_never_ran_are_said_to_be_uninitialized() -> None:
    model = lazy_net()
    with record(model) as recorder:
        pass
    assert not any(parameter.initialized for parameter in recorder.recording.parameters[:2])


def test_observe_leaves_lazy_modules_lazy() -> None:
    model = lazy_net()
    recording = assert_observe_leaves_no_trace(Problem(model, batch()))
    assert model[0].has_uninitialized_params()
    assert has(recording, "weight_gradient", "0")
