from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.networks.specification import (
    ACTIVATIONS,
    FAMILIES,
    INITIALISATIONS,
    NORM_POSITIONS,
    NORMALISATIONS,
    SHORTCUTS,
    NetworkSpec,
    SpecificationError,
)


@st.composite
def specifications(draw):
    fields = {
        "family": draw(st.sampled_from(FAMILIES)),
        "depth": draw(st.sampled_from([1, 2, 10, 18, 34])),
        "width": draw(st.integers(1, 512)),
        "activation": draw(st.sampled_from(ACTIVATIONS)),
        "initialisation": draw(st.sampled_from(INITIALISATIONS)),
        "normalisation": draw(st.sampled_from(NORMALISATIONS)),
        "norm_position": draw(st.sampled_from(NORM_POSITIONS)),
        "shortcut": draw(st.sampled_from(SHORTCUTS)),
        "num_inputs": draw(st.integers(1, 99)),
        "num_outputs": draw(st.integers(1, 99)),
        "weight_variance": draw(st.none() | st.floats(0.0, 1e6)),
        "bias_variance": draw(st.none() | st.floats(0.0, 1e6)),
    }
    try:
        return NetworkSpec(**fields)
    except SpecificationError:
        return NetworkSpec(depth=fields["depth"], width=fields["width"], weight_variance=fields["weight_variance"])


@given(specifications())
def test_a_specification_is_read_back_from_its_line_and_from_toml(spec):
    assert "\n" not in str(spec)
    assert NetworkSpec.parse(str(spec)) == spec
    assert NetworkSpec.from_toml(spec.to_toml()) == spec


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("mpl", ["family", "mlp", "'mpl'"]),
        ("mlp depth=0", ["depth", "whole number", "0"]),
        ("mlp depth=2.5", ["depth", "2.5"]),
        ("mlp activation=rellu", ["activation", "relu", "'rellu'"]),
        ("mlp depth", ["name=value", "'depth'"]),
        ("mlp deep=3", ["'deep'", "depth"]),
        ("mlp weight_variance=-1", ["weight_variance", "-1"]),
        ("mlp weight_variance=nan", ["weight_variance", "nan"]),
        ("conv depth=20", ["10, 18 or 34", "20"]),
        ("mlp initialisation=rezero", ["rezero", "shortcut", "learned"]),
        ("lstm shortcut=identity", ["recurrent", "identity"]),
        ("transformer normalisation=batch", ["transformer", "batch"]),
        ("conv depth=18 shortcut=dense", ["mlps only", "conv"]),
        ("mlp activation=softplus initialisation=critical", ["softplus has no critical point"]),
        ("gru activation=softplus initialisation=critical weight_variance=1", ["softplus has no critical point"]),
        ("mlp initialisation=lsuv weight_variance=2", ["lsuv", "weight_variance=2"]),
        ("mlp depth=3 depth=4", ["second 'depth'"]),
        ("mlp family=conv", ["second 'family'"]),
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(line, words):
    with pytest.raises(SpecificationError) as error:
        NetworkSpec.parse(line)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


def test_equal_specifications_have_one_line_whatever_numbers_they_were_given():
    given = NetworkSpec(depth=np.int64(3), weight_variance=1, bias_variance=-0.0)
    assert str(given) == "mlp depth=3 width=64 weight_variance=1.0 bias_variance=0.0"
    assert str(NetworkSpec.parse("mlp depth=3 weight_variance=1 bias_variance=0")) == str(given)


@pytest.mark.parametrize("number", [1.5, np.float64(1.5), np.float32(1.5)])
def test_numbers_of_numpy_are_read_back_from_toml(number):
    spec = NetworkSpec(weight_variance=number)
    assert NetworkSpec.from_toml(spec.to_toml()) == spec


def test_toml_that_is_none_is_refused_in_one_sentence():
    with pytest.raises(SpecificationError, match="expected TOML"):
        NetworkSpec.from_toml("depth = = 3")


@pytest.mark.parametrize(
    ("line", "num_blocks"),
    [
        ("mlp depth=20", 19),
        ("conv depth=18", 8),
        ("conv depth=34", 16),
        ("transformer depth=6", 12),
        ("rnn depth=7", 7),
    ],
)
def test_the_number_of_blocks_is_that_of_branches(line, num_blocks):
    assert NetworkSpec.parse(line).num_blocks == num_blocks
