"""What a report says about time steps."""

from __future__ import annotations

import dataclasses
import json

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.analysis import TimeSteps
from headwater.report.data import _plain, _time_steps
from headwater.report.glyphs import ASCII, UNICODE
from headwater.report.time_rows import TimeRow, time_rows
from tests.report.test_json_schema import assert_valid
from tests.rules.recurrent_networks import FEATURES, HIDDEN, Loop, Sequences, fused, sequences


def _steps(norms, *, module="rnn", lost=0.0, grown=0.0, rate=-1.0, depth=1):
    return TimeSteps(
        module=module,
        module_type="RNN",
        depth=depth,
        is_fused=True,
        is_gated=False,
        norms=tuple(norms),
        lost_decades=lost,
        grown_decades=grown,
        decades_per_step=rate,
    )


DECAY = [10.0**-power for power in range(7, -1, -1)]


def test_a_decay_is_drawn_as_a_slope_in_both_alphabets():
    (row,) = time_rows([_steps(DECAY, lost=7.0)])
    assert row.drawn(UNICODE.levels) == "▁▂▃▄▅▆▇█"
    assert row.drawn(ASCII.levels) == ".:-=+*#@"
    assert row.text == (
        "8 time steps of 'rnn' (RNN): a factor of 0.100 per step back; of the loss's gradient, the weakest steps get 7.0 decades less"
    )


def test_equal_steps_are_drawn_flat_and_nothing_is_said_of_a_loss():
    (row,) = time_rows([_steps([1.0, 1.01, 0.99, 1.0, 1.0], rate=0.0)])
    assert row.drawn(UNICODE.levels) == "█████"
    assert row.text == "5 time steps of 'rnn' (RNN): a factor of 1.00 per step back"


def test_growth_is_said():
    (row,) = time_rows([_steps(DECAY[::-1], grown=7.0, rate=1.0)])
    assert row.drawn(UNICODE.levels) == "█▇▆▅▄▃▂▁"
    assert "the strongest steps get 7.0 decades more" in row.text


def test_many_steps_share_columns_and_exact_zeros_lie_at_the_bottom():
    (row,) = time_rows([_steps([0.0] * 500 + [1.0] * 500)])
    assert row.heights == (0.0,) * 12 + (1.0,) * 12


def test_a_rate_that_is_not_known_is_not_said():
    (row,) = time_rows([_steps([0.0, 0.0, 0.0, 0.0, 1.0], rate=float("nan"))])
    assert row.text == "5 time steps of 'rnn' (RNN)"


def test_calls_of_one_module_are_one_row_and_many_modules_are_folded():
    rows = time_rows([_steps(DECAY, lost=float(depth), depth=depth) for depth in range(3)])
    assert len(rows) == 1
    assert "(3 calls of it)" in rows[0].text
    assert "2.0 decades less" in rows[0].text
    folded = time_rows([_steps(DECAY, module=f"rnn{number}") for number in range(9)])
    assert folded[-1] == TimeRow("3 more recurrent modules", ())
    assert len(folded) == 7


@pytest.fixture(scope="module")
def diagnosis():
    torch.manual_seed(0)
    return hw.diagnose(Sequences(fused(nn.LSTM)), sequences(60), loss=lambda output: output.square().mean())


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_the_text_has_a_paragraph_about_time(diagnosis, width):
    text = diagnosis.to_text(width=width)
    words = " ".join(text.split())
    assert "over time (from the first step to the last)" in words
    assert "60 time steps of 'rnn' (LSTM): a factor of 0.6" in words
    assert max(map(len, text.splitlines())) <= width
    assert diagnosis.to_text(width=width, ascii_only=True).isascii()


def test_the_html_has_it_too(diagnosis):
    html = diagnosis._repr_html_()
    assert "over time (from the first step to the last)" in html
    assert html.isascii()


def test_a_network_without_time_has_no_such_paragraph():
    plain = hw.diagnose(nn.Linear(4, 1), torch.ones(2, 4))
    assert plain.time_steps == ()
    assert "over time" not in plain.to_text()
    assert "over time" not in plain._repr_html_()


def test_the_data_hold_every_step(diagnosis):
    data = assert_valid(diagnosis)
    (steps,) = data["time_steps"]
    assert steps["norms"] == pytest.approx(diagnosis.time_steps[0].norms)
    assert steps["factor_per_step"] == pytest.approx(0.6, abs=0.1)
    torch.manual_seed(0)
    cells = hw.diagnose(Loop(nn.GRUCell(FEATURES, HIDDEN)), sequences(9), loss=lambda output: output.square().mean())
    (steps,) = assert_valid(cells)["time_steps"]
    assert (steps["module"], steps["is_fused"], len(steps["norms"])) == ("cell", False, 9)


def test_steps_without_a_rate_are_null_in_the_data():
    found = _plain(_time_steps(dataclasses.replace(_steps(DECAY), decades_per_step=float("nan"))))
    assert found["decades_per_step"] is None
    json.dumps(found, allow_nan=False)
