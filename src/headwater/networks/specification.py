"""What a network of a matched family is made of, in one line: family, depth, width, activation, initialisation, norm, shortcut."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from numbers import Integral, Real
from typing import Any, Self

FAMILIES = ("mlp", "conv", "transformer", "rnn", "gru", "lstm")
ACTIVATIONS = (
    *("linear", "relu", "leaky_relu", "elu", "selu", "gelu", "gelu_tanh", "silu"),
    *("tanh", "sigmoid", "softplus", "erf", "hardtanh"),
)
INITIALISATIONS = (
    *("default", "glorot", "he", "lecun", "orthogonal", "critical", "lsuv"),
    *("fixup", "rezero", "deepnorm"),
)
NORMALISATIONS = ("none", "batch", "layer", "rms")
SHORTCUTS = ("none", "identity", "scaled", "learned", "highway", "dense")
NORM_POSITIONS = ("pre", "post")
CONV_DEPTHS = (10, 18, 34)

_CHOICES = {
    "family": FAMILIES,
    "activation": ACTIVATIONS,
    "initialisation": INITIALISATIONS,
    "normalisation": NORMALISATIONS,
    "shortcut": SHORTCUTS,
    "norm_position": NORM_POSITIONS,
}
COUNTS = ("depth", "width", "num_inputs", "num_outputs")
_VARIANCES = ("weight_variance", "bias_variance")
# Initialisations that are about the branches of shortcuts.
_OF_BRANCHES = ("fixup", "rezero", "deepnorm")
_WITH_BRANCHES = ("identity", "scaled", "learned")
NO_CRITICAL_POINT = (
    "softplus has no critical point, as it would need a negative bias_variance: use another activation, or give weight_variance and "
    "bias_variance"
)


class SpecificationError(ValueError):
    """There is no such network; the message says in one sentence what was expected, what arrived and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSpec:
    """One network; `headwater.networks.build` makes it. Prints as one line, which `parse` reads, and as TOML.

    Args:
        family: "mlp" (linear layers), "conv" (basic blocks in the shape of the 10-, 18- or 34-layer ResNet), "transformer"
            (blocks of attention and MLP), or "rnn", "gru", "lstm" (one cell over `depth` time steps).
        depth: hidden layers of an mlp, weight layers of a conv net, blocks of a transformer, time steps of a recurrent net.
        width: units of a layer; channels of a conv net's first stage.
        activation: between the layers; see `ACTIVATIONS`. Recurrent gates stay what they are.
        initialisation: of the weights; see `INITIALISATIONS`. "default" is PyTorch's.
        normalisation: "none", "batch", "layer" or "rms".
        norm_position: "pre" (in the branch, before its weights) or "post" (after the weights, in a transformer after the sum).
        shortcut: "none", "identity", "scaled" (branches times 1/sqrt(number of blocks)), "learned" (times a scalar that is trained),
            "highway" (a gate chooses) or "dense" (a layer reads what all layers before it returned).
        num_inputs: features of a sample; channels for conv nets; features of a position or time step for the rest.
        num_outputs: units of the output layer.
        weight_variance: sigma_w², variance of a weight times its fan-in, instead of the initialisation's.
        bias_variance: sigma_b², variance of a bias, instead of the initialisation's.

    Raises:
        SpecificationError: a field has no such value, or two do not go together.

    >>> spec = NetworkSpec(family="mlp", depth=20, width=64, activation="gelu", shortcut="identity")
    >>> print(spec)
    mlp depth=20 width=64 activation=gelu shortcut=identity
    >>> NetworkSpec.parse(str(spec)) == spec
    True
    """

    family: str = "mlp"
    depth: int = 8
    width: int = 64
    activation: str = "relu"
    initialisation: str = "default"
    normalisation: str = "none"
    norm_position: str = "pre"
    shortcut: str = "none"
    num_inputs: int = 16
    num_outputs: int = 4
    weight_variance: float | None = None
    bias_variance: float | None = None

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            _check_choice(name, getattr(self, name), choices)
        # Python's own numbers, and variances as floats, so that equal specifications have one line, and one seed in a sweep.
        for name in COUNTS:
            object.__setattr__(self, name, _count(name, getattr(self, name)))
        for name in _VARIANCES:
            object.__setattr__(self, name, _variance(name, getattr(self, name)))
        self._check_combination()
        self._check_variances()

    def _check_combination(self) -> None:
        if self.family == "conv" and self.depth not in CONV_DEPTHS:
            raise SpecificationError(f"expected the depth of a conv net to be 10, 18 or 34, got {self.depth}")
        if self.initialisation in _OF_BRANCHES and self.shortcut not in _WITH_BRANCHES:
            raise SpecificationError(
                f"initialisation '{self.initialisation}' is about branches beside shortcuts, and shortcut is '{self.shortcut}': "
                f"use one of {', '.join(_WITH_BRANCHES)}"
            )
        if self.family in ("rnn", "gru", "lstm") and (self.shortcut != "none" or self.normalisation != "none"):
            raise SpecificationError(
                f"a family of recurrent cells has no shortcuts and no norms here, got shortcut '{self.shortcut}' and "
                f"normalisation '{self.normalisation}'"
            )
        if self.family == "transformer" and self.normalisation == "batch":
            raise SpecificationError("a transformer has normalisation none, layer or rms here, got 'batch'")
        if self.family != "mlp" and self.shortcut in ("highway", "dense"):
            raise SpecificationError(f"shortcut '{self.shortcut}' is there for mlps only, got family '{self.family}'")

    def _check_variances(self) -> None:
        if self.initialisation == "lsuv" and self.weight_variance is not None:
            raise SpecificationError(
                f"initialisation 'lsuv' finds the variances of weights from data, got weight_variance={self.weight_variance}: leave "
                "it out, or use 'orthogonal'"
            )
        is_given = self.weight_variance is not None and self.bias_variance is not None
        if self.initialisation == "critical" and self.activation == "softplus" and not is_given:
            raise SpecificationError(NO_CRITICAL_POINT)

    @property
    def num_blocks(self) -> int:
        """How many branches there are beside shortcuts, or would be: L of 1/sqrt(L)."""
        if self.family == "mlp":
            return max(self.depth - 1, 1)  # the first layer changes the width
        return {"conv": (self.depth - 2) // 2, "transformer": 2 * self.depth}.get(self.family, self.depth)

    def __str__(self) -> str:
        return " ".join(
            [self.family, *(f"{name}={value}" for name, value in self._given().items() if name != "family")]
        )

    def _given(self) -> dict[str, Any]:
        """The fields that are not what they are by default; family, depth and width always."""
        always = ("family", "depth", "width")
        return {
            field.name: value
            for field in fields(self)
            if (value := getattr(self, field.name)) != field.default or field.name in always
        }

    @classmethod
    def parse(cls, line: str) -> Self:
        """The specification that a line says, as `str` writes it.

        Raises:
            SpecificationError: a word is no field with a value, or the network does not exist.

        >>> NetworkSpec.parse("transformer depth=6 normalisation=layer shortcut=identity").num_blocks
        12
        """
        words = line.split()
        given: dict[str, Any] = {"family": words[0]} if words and "=" not in words[0] else {}
        for word in words[len(given) :]:
            name, equals, text = word.partition("=")
            if not equals or not text:
                raise SpecificationError(
                    f"expected a family and then name=value, as in 'mlp depth=20', got {word!r} in {line!r}"
                )
            if name in given:
                raise SpecificationError(f"expected each field once, got a second '{name}' in {line!r}")
            given[name] = _number(text)
        return cls.from_mapping(given)

    @classmethod
    def from_mapping(cls, given: Mapping[str, Any]) -> Self:
        """The specification with these fields.

        Raises:
            SpecificationError: there is no such field, or the network does not exist.

        >>> NetworkSpec.from_mapping({"depht": 3})
        Traceback (most recent call last):
        ...
        headwater.networks.specification.SpecificationError: there is no field 'depht' of a network; there are family, depth, ...
        """
        names = [field.name for field in fields(cls)]
        for name in given:
            if name not in names:
                raise SpecificationError(f"there is no field '{name}' of a network; there are {', '.join(names)}")
        return cls(**given)

    def to_toml(self) -> str:
        """The specification as TOML, one field a line.

        >>> print(NetworkSpec(depth=3).to_toml(), end="")
        family = "mlp"
        depth = 3
        width = 64
        """
        return "".join(f'{n} = "{v}"\n' if isinstance(v, str) else f"{n} = {v!r}\n" for n, v in self._given().items())

    @classmethod
    def from_toml(cls, text: str) -> Self:
        """The specification that TOML says.

        Raises:
            SpecificationError: it is no TOML, there is no such field, or the network does not exist.

        >>> NetworkSpec.from_toml('family = "lstm"').family
        'lstm'
        """
        try:
            return cls.from_mapping(tomllib.loads(text))
        except tomllib.TOMLDecodeError as error:
            raise SpecificationError(f"expected TOML, one field of a network a line: {error}") from error


def _number(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise SpecificationError(f"expected {name} to be one of {', '.join(choices)}, got {value!r}")


def _count(name: str, value: object) -> int:
    if not isinstance(value, Integral) or isinstance(value, bool) or value < 1:
        raise SpecificationError(f"expected {name} to be a whole number from 1, got {value!r}")
    return int(value)


def _variance(name: str, value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, Real) and not isinstance(value, bool):
        with suppress(OverflowError):  # an int may be larger than any float
            if 0.0 <= (number := float(value)) < math.inf:
                return abs(number)  # -0.0 is 0.0
    raise SpecificationError(f"expected {name} to be a number from 0, got {value!r}")
