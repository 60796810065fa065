"""The benchmark of verdicts: its cases are what they are said to be, and it counts right."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from benchmarks.detectors import published, recurrent
from benchmarks.detectors import score as scoring
from benchmarks.detectors.case import Case, Subject
from benchmarks.detectors.detectors import Answer, auto_trainer, sagemaker_debugger, the_deep_checker

EVERY = list(scoring.all_cases())


def test_there_are_enough_of_both_kinds():
    assert sum(not case.is_healthy for case in EVERY) >= 60
    assert sum(case.is_healthy for case in EVERY) >= 40
    codes = {code for case in EVERY for code in case.codes}
    assert codes >= {"HW101", "HW102", "HW103", "HW104", "HW201", "HW202", "HW203", "HW204"}
    assert codes >= {"HW301", "HW302", "HW303", "HW401", "HW402", "HW403"}
    assert len({case.name for case in EVERY}) == len(EVERY)


@pytest.mark.parametrize("case", EVERY, ids=lambda case: case.name)
def test_a_case_is_the_same_for_the_same_seed(case: Case):
    first, again = case.make(0), case.make(0)
    assert (first is None) == (again is None)
    if first is not None and again is not None:
        pairs = zip(first.model.parameters(), again.model.parameters(), strict=True)
        assert all(torch.equal(a.detach().nan_to_num(), b.detach().nan_to_num()) for a, b in pairs)


def _gradients(subject: Subject) -> list[torch.Tensor]:
    """By plain autograd in float64."""
    model = subject.model.double()
    assert subject.loss is not None
    loss = subject.loss(model(subject.inputs.double()), subject.targets)
    return [g for g in torch.autograd.grad(loss, list(model.parameters())) if g.dim() > 1]


def _norms_per_step(subject: Subject) -> torch.Tensor:
    """Of the loss's gradient at each step's input, by plain autograd in float64."""
    model = subject.model.double()
    embedding = getattr(model, "embedding", None)
    given = subject.inputs.double() if embedding is None else embedding(subject.inputs)
    given = given.detach().requires_grad_()
    assert subject.loss is not None
    loss = subject.loss((model if embedding is None else model.network)(given))
    gradient = torch.autograd.grad(loss, given)[0]
    lengths = getattr(model, "lengths", None)
    rows = slice(None) if lengths is None else [int(torch.as_tensor(lengths).argmax())]  # the longest one
    return gradient[rows].square().sum((0, 2)).sqrt()


@pytest.mark.parametrize("case", list(recurrent.cases()), ids=lambda case: case.name)
def test_the_labels_of_recurrent_networks_hold_in_plain_autograd(case: Case):
    subject = case.make(1)
    assert subject is not None
    if "transformer" in case.name:
        return
    norms = _norms_per_step(subject)
    early = norms[: max(1, len(norms) // 10)].median()
    if case.codes == ("HW101",):
        assert 0.0 < early < 2.0**-25 * norms.max()
    elif case.codes == ("HW102",):
        assert early > 1e3 * norms[-1]
    else:
        assert norms.min() > 2.0**-25 * norms.max()


@pytest.mark.parametrize("case", list(published.cases()), ids=lambda case: case.name)
def test_the_published_labels_hold_in_plain_autograd(case: Case):
    subject = case.make(1)
    if subject is None:  # this seed's rectifiers live
        return
    if case.codes == ("HW104",):
        with torch.no_grad():
            assert not torch.isfinite(subject.model(subject.inputs)).all()
        return
    norms = [gradient.norm().item() for gradient in _gradients(subject)]
    if case.codes == ("HW101",):
        assert 0.0 < norms[0] < 1e-3 * norms[-1]
    elif case.codes == ("HW103",):
        assert norms[0] == 0.0
    elif not case.codes:
        assert norms[0] > 1e-5 * norms[-1]


def test_the_score_counts_codes_modules_and_alarms(monkeypatch):
    def subject(_seed: int) -> Subject:
        return Subject(nn.Linear(2, 1), torch.ones(1, 2))

    cases = [
        Case("right and located", subject, ("HW101",), "a"),
        Case("right elsewhere", subject, ("HW101", "HW102"), "b"),
        Case("another code", subject, ("HW401",)),
        Case("healthy", subject),
        Case("not with this seed", lambda _: None, ("HW101",)),
    ]
    monkeypatch.setitem(scoring.DETECTORS, "always", lambda _: Answer({"HW101"}, {"a"}))
    monkeypatch.setitem(scoring.DETECTORS, "never", lambda _: Answer())
    found = scoring.score(cases, "always", range(2))
    assert (found.num_found, found.num_broken) == (4, 6)
    assert (found.num_located, found.num_to_locate) == (2, 4)
    assert (found.num_alarms, found.num_healthy) == (2, 2)
    assert "another code, seed 0: HW101 instead of HW401" in found.mistakes
    silent = scoring.score(cases, "never", range(2))
    assert (silent.num_found, silent.num_alarms) == (0, 0)


def test_the_other_tools_rules_do_find_what_they_were_made_for():
    torch.manual_seed(0)
    sigmoids = nn.Sequential(*[m for _ in range(20) for m in (nn.Linear(16, 16), nn.Sigmoid())], nn.Linear(16, 1))
    subject = Subject(sigmoids, torch.randn(32, 16), loss=lambda output: output.square().mean())
    for detector in (sagemaker_debugger, auto_trainer, the_deep_checker):
        assert "HW101" in detector(subject).codes


@pytest.mark.parametrize("seed", [0])
def test_headwater_makes_no_mistake_on_one_seed(seed):
    found = scoring.score(EVERY, "headwater", [seed])
    assert found.mistakes == []
