from __future__ import annotations

import pytest
import torch
from torch import nn

from headwater.findings import Severity
from headwater.testing import assert_gradients_flow
from tests.capture.planted_faults import InALoop, planted_line
from tests.rules import broken_networks as broken

INPUTS = torch.randn(64, 8, generator=torch.Generator().manual_seed(0))


def test_a_healthy_model_passes_and_gives_its_diagnosis():
    diagnosis = assert_gradients_flow(nn.Linear(8, 1), INPUTS, torch.zeros(64, 1), loss=nn.MSELoss())
    assert all(finding.severity < Severity.WARNING for finding in diagnosis.findings)


def test_the_message_says_what_where_why_and_what_to_do():
    torch.manual_seed(0)
    with pytest.raises(AssertionError) as failure:
        assert_gradients_flow(InALoop(), INPUTS)
    text = str(failure.value)
    first, *rest = text.splitlines()
    assert first.startswith("the gradient does not flow through InALoop: The gradient loses ")
    assert rest[1].startswith("error HW101 vanishing-gradient at layers.0")
    assert f"planted_faults.py:{planted_line(InALoop)}" in text
    assert "  do   " in text
    assert "print(headwater.diagnose(...))" in rest[-1]


def test_severity_and_codes_are_the_callers():
    torch.manual_seed(0)
    assert_gradients_flow(broken.DetachedInForward(), INPUTS, select="HW1")
    assert_gradients_flow(broken.DetachedInForward(), INPUTS, ignore=["HW4"])
    with pytest.raises(AssertionError, match="HW401"):
        assert_gradients_flow(broken.DetachedInForward(), INPUTS, select="HW401", fail_on="error")
    with pytest.raises(ValueError, match="'loud'"):
        assert_gradients_flow(nn.Linear(8, 1), INPUTS, fail_on="loud")
    with pytest.raises(ValueError, match="no rule has a code"):
        assert_gradients_flow(nn.Linear(8, 1), INPUTS, select="HW7")


def test_the_model_is_left_as_it_was():
    model = nn.Linear(8, 1)
    before = [parameter.clone() for parameter in model.parameters()]
    assert_gradients_flow(model, INPUTS)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is None for parameter in model.parameters())
