from __future__ import annotations

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
    ],
)
def test_what_does_not_exist_is_refused_in_one_sentence(line, words):
    with pytest.raises(SpecificationError) as error:
        NetworkSpec.parse(line)
    assert "\n" not in str(error.value)
    assert all(word in str(error.value) for word in words)


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
