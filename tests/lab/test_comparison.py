from __future__ import annotations

import json
import math
import pickle
import subprocess
import sys

import numpy as np
import pytest
from torch import nn

import headwater as hw
from headwater.lab.comparison import Comparison
from headwater.lab.comparison_file import ComparisonFileError
from headwater.lab.layer_ratios import counterparts
from headwater.lab.variant_measurements import all_names
from tests.lab.networks import NOTEBOOK, SAMPLE, ZERO, classes, inputs, mlp


@pytest.fixture(scope="module")
def comparison():
    return hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=8, train=2)


@pytest.fixture(scope="module")
def odd():
    """Zero gradients, different depths, names that want escaping, and classes."""
    variants = {
        "a <b>&\x1b[31m": lambda: mlp(1),
        "dead": lambda: nn.Sequential(nn.Linear(6, 6), _Nothing(), nn.Linear(6, 2), nn.Linear(2, 2)),
    }
    return hw.compare(variants, inputs(), classes(), loss=nn.CrossEntropyLoss(), seeds=7)


class _Nothing(nn.Module):
    def forward(self, x):
        return (x - 1e6).relu()


@pytest.mark.parametrize("name", ["comparison", "odd"])
def test_saved_and_loaded_it_is_the_same_bit_for_bit(name, request, tmp_path):
    found = request.getfixturevalue(name)
    path = tmp_path / "comparison.json"
    found.save(path)
    again = Comparison.load(path)
    assert again == found
    assert again.to_dict() == found.to_dict()
    assert str(again) == str(found)
    assert pickle.loads(pickle.dumps(found)) == found


def test_another_seed_is_another_comparison(comparison):
    assert comparison != hw.compare(NOTEBOOK, SAMPLE, ZERO, loss=nn.MSELoss(), seeds=range(1, 9), train=2)


def test_it_is_read_without_torch(comparison, tmp_path):
    path, pickled = tmp_path / "comparison.json", tmp_path / "comparison.pickle"
    comparison.save(path)
    pickled.write_bytes(pickle.dumps(comparison))
    code = (
        "import sys, pickle, pathlib, headwater as hw\n"
        f"one = hw.Comparison.load({str(path)!r})\n"
        f"other = pickle.loads(pathlib.Path({str(pickled)!r}).read_bytes())\n"
        "assert one == other and one.verdict and str(one) and one.table and one._repr_html_()\n"
        "print('torch' in sys.modules)\n"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"


@pytest.mark.parametrize("name", ["comparison", "odd"])
def test_its_json_is_strict(name, request):
    text = json.dumps(request.getfixturevalue(name).to_dict(), allow_nan=False)
    assert json.loads(text)["schema"] == "headwater.comparison"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no comparison"),
        ("{", "is no comparison"),
        ("[]", "expected a comparison"),
        ('{"schema": "other"}', "expected a comparison"),
        (
            '{"schema": "headwater.comparison", "schema_version": 99}',
            "expected schema version 1 of a comparison, got 99",
        ),
        ('{"schema": "headwater.comparison", "schema_version": 1}', "the comparison is damaged"),
        ("\udcff", "is no comparison"),
    ],
)
def test_a_file_that_holds_none_is_refused_in_one_sentence(text, message, tmp_path):
    path = tmp_path / "broken.json"
    path.write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ComparisonFileError, match=message) as caught:
        Comparison.load(path)
    assert "\n" not in str(caught.value)


def test_a_truncated_or_changed_file_never_loads(comparison, tmp_path):
    path = tmp_path / "comparison.json"
    comparison.save(path)
    text = path.read_text(encoding="utf-8")
    for end in range(0, len(text) - 3, len(text) // 23):
        path.write_text(text[:end], encoding="utf-8")
        with pytest.raises(ComparisonFileError):
            Comparison.load(path)
    data = json.loads(text)
    data["seeds"].append(99)  # more seeds than rows
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(ComparisonFileError, match="for 9 seeds and 5 layers"):
        Comparison.load(path)


def test_the_table_has_one_row_per_layer_of_each_variant(comparison):
    table = comparison.table
    assert table["variant"].tolist() == ["plain"] * 5 + ["shortcut"] * 5
    gain = comparison.ratios["shortcut"].layers[0].gain
    assert (table["gain_ratio"][5], table["gain_ratio_low"][5], table["num_pairs"][5]) == (gain.value, gain.low, 8)
    assert np.isnan(table["gain_ratio"][:5].tolist()).all()
    frame = table.to_pandas()
    assert str(frame["gain_decades"].dtype) == "float64"


def test_the_samples_are_what_was_measured(comparison):
    samples = comparison.samples
    assert len(samples) == 2 * 8 * 5
    chosen = (samples["variant"] == "shortcut") & (samples["seed"] == 3)
    measured = comparison.variants[1].measured
    assert samples["gain_decades"][chosen].tolist() == measured.gain_decades[3].tolist()
    assert samples["loss"][chosen].tolist() == [measured.loss[3]] * 5
    assert samples.to_polars().shape == (80, len(samples.column_names))


def test_the_text_fits_and_has_an_ascii_form(comparison, odd):
    text = comparison.to_text()
    assert "gain from the output to each layer" in text
    assert "theory, beside the first seed" in text
    assert max(map(len, text.splitlines())) <= 100  # tables of numbers may be wider than what is asked for
    assert max(map(len, text.partition("'shortcut' over")[0].splitlines())) <= 80
    for found in (comparison, odd):
        ascii_text = found.to_text(ascii_only=True)
        assert ascii_text.isascii()
        assert "\x1b" not in found.to_text()
        assert len(ascii_text.splitlines()) == len(found.to_text().splitlines())


def test_html_is_escaped_and_self_contained(odd):
    html = odd._repr_html_()
    assert "a &lt;b&gt;&amp;" in html
    assert "<script" not in html
    assert "http" not in html
    assert html.isascii()
    assert "\x1b" not in html


def test_repr_says_what_it_is(comparison):
    assert repr(comparison) == "<Comparison of plain, shortcut over 8 seeds>"


def test_counterparts_are_nearest_in_relative_depth():
    for num_layers in range(1, 30):
        for num_others in range(1, 30):
            found = counterparts(num_layers, num_others)
            assert len(found) == num_layers
            if num_layers > 1:
                assert (found[0], found[-1]) == (0, num_others - 1)
                for index, other in enumerate(found):
                    place = index / (num_layers - 1) * (num_others - 1)
                    assert abs(other - place) <= 0.5 + 1e-9
    assert counterparts(3, 4) == [0, 1, 3]  # of two that are as near, the earlier one


def test_a_layer_that_some_seeds_lack_keeps_its_place():
    assert all_names([["a", "c"], ["a", "b", "c", "d"], ["z", "a"]]) == ["z", "a", "b", "c", "d"]
    assert math.isclose(len(all_names([["a"], []])), 1)
