"""What the variants of `headwater compare` are, and what they are run on."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, NamedTuple

from headwater.cli.errors import CommandError
from headwater.cli.target import is_factory, load_member, made

if TYPE_CHECKING:
    from torch import nn

    from headwater.networks import NetworkSpec

EXPECTED = (
    "a specification such as 'mlp depth=20 shortcut=identity', or pkg.module:factory or path/to/file.py:factory, where factory() "
    "returns a network or a headwater.Problem"
)
EXPECTED_DATA = (
    "normal, digits, or pkg.module:factory or path/to/file.py:factory, where factory() returns a headwater.Problem or a tuple "
    "(inputs, targets, loss)"
)


class Data(NamedTuple):
    """One batch, what is done with it, and what is held out to test on."""

    inputs: Any
    targets: Any = None
    loss: Callable[..., Any] | None = None
    held_out: tuple[Any, Any] | None = None


@dataclass(frozen=True, slots=True)
class TargetFactory:
    """Makes the network of a target's factory, which may come with a whole problem."""

    factory: Callable[[], Any]

    @property
    def __wrapped__(self) -> Callable[[], Any]:
        """The user's function, by whose name the variant is described."""
        return self.factory

    def __call__(self) -> nn.Module:
        """A new network."""
        from headwater.capture import Problem

        found = self.factory()
        return found.model if isinstance(found, Problem) else found


def load_variants(words: Sequence[str]) -> dict[str, TargetFactory | NetworkSpec]:
    """The variants that words of the command line stand for, each under a short name.

    Raises:
        CommandError: one stands for nothing, or two for the same.

    >>> list(load_variants(["mlp depth=3", "mlp depth=4"]))
    ['depth=3', 'depth=4']
    """
    from headwater.capture import ProblemError
    from headwater.lab.variants import names_of, parsed

    found: dict[str, TargetFactory | NetworkSpec] = {}
    try:
        specs = {word: parsed(word) for word in words if ":" not in word}
    except ProblemError as error:
        raise CommandError(f"{error} (expected {EXPECTED})") from None
    names = dict(zip(specs, names_of(list(specs.values())) if len(specs) > 1 else specs, strict=True))
    for word in words:
        name, source = (names[word], specs[word]) if word in specs else _target(word)
        name = word if name in found else name
        if name in found:
            raise CommandError(f"two variants are the same: '{word}'")
        found[name] = source
    return found


def _target(word: str) -> tuple[str, TargetFactory]:
    name, value = load_member(word, EXPECTED)
    if not is_factory(value):
        raise CommandError(
            f"expected '{name}' to be a function that makes a network, since each seed needs a new one, got an object of type "
            f"{type(value).__name__}"
        )
    return name, TargetFactory(value)


def load_data(source: str | None, variants: dict[str, TargetFactory | NetworkSpec], batch_size: int) -> Data:
    """The data that --inputs names; without it that of the first factory that returns a problem, or random numbers.

    Args:
        source: "normal", "digits", a target, or None.
        variants: as loaded; of specifications the shape of the inputs is known.
        batch_size: samples of random numbers, and of the digits to train on.

    Raises:
        CommandError: there are no such data, or they do not fit the specifications.

    >>> load_data(None, load_variants(["mlp depth=3", "mlp depth=4"]), 8).inputs.shape
    torch.Size([8, 16])
    """
    if source == "digits":
        return _digits(variants, batch_size)
    if source not in (None, "normal"):
        name, value = load_member(source, EXPECTED_DATA)
        return _data_of(made(value, name) if is_factory(value) else value, name)
    if source is None:
        for name, variant in variants.items():
            if isinstance(variant, TargetFactory):
                found = made(variant.factory, name)
                if _is_problem(found):
                    return _data_of(found, name)
    return Data(_normal(variants, batch_size))


def fitted(variants: dict[str, TargetFactory | NetworkSpec], source: str | None) -> dict[str, Any]:
    """The variants with the specifications' inputs and outputs as the digits need them, where they do not say themselves.

    >>> variants = load_variants(["mlp depth=3", "mlp depth=4"])
    >>> fitted(variants, "digits")["depth=3"].num_outputs
    10
    """
    if source != "digits":
        return dict(variants)
    return {
        name: variant if isinstance(variant, TargetFactory) else _for_digits(variant)
        for name, variant in variants.items()
    }


def _for_digits(spec: NetworkSpec) -> NetworkSpec:
    from headwater.networks import NetworkSpec
    from headwater.networks.families import input_shape

    standard = NetworkSpec()
    num_places = math.prod(input_shape(spec)) // spec.num_inputs
    if spec.num_inputs == standard.num_inputs and 64 % num_places == 0:
        spec = replace(spec, num_inputs=64 // num_places)
    return replace(spec, num_outputs=10) if spec.num_outputs == standard.num_outputs else spec


def _specs(variants: dict[str, Any]) -> list[NetworkSpec]:
    return [variant for variant in variants.values() if not isinstance(variant, TargetFactory)]


def _shape(variants: dict[str, Any]) -> tuple[int, ...]:
    """Of one sample, that all specifications share."""
    from headwater.networks.families import input_shape

    shapes = list(dict.fromkeys(input_shape(spec) for spec in _specs(variants)))
    if not shapes:
        raise CommandError(
            f"nothing says what the networks read: let a factory return a headwater.Problem, or give --inputs: {EXPECTED_DATA}"
        )
    if len(shapes) > 1:
        raise CommandError(
            f"expected variants that read inputs of one shape, got samples of shape {' and '.join(map(str, shapes))}"
        )
    return shapes[0]


def _normal(variants: dict[str, Any], batch_size: int) -> Any:
    import torch

    return torch.randn(batch_size, *_shape(variants), generator=torch.Generator().manual_seed(0))


def _digits(variants: dict[str, Any], batch_size: int) -> Data:
    from torch import nn

    if find_spec("sklearn") is None:
        raise CommandError("the digits come with scikit-learn: pip install 'headwater[demo]'")
    from headwater.cli.demo.digits import load_digits

    shape = _shape(variants) if _specs(variants) else (64,)
    if math.prod(shape) != 64 or any(spec.num_outputs < 10 for spec in _specs(variants)):
        raise CommandError(
            f"the digits have 64 pixels and 10 classes, got networks for samples of shape {shape}: leave num_inputs and num_outputs out"
        )
    digits = load_digits()
    train, test = (images.reshape(-1, *shape) for images in (digits.train_images, digits.test_images))
    held_out = (test, digits.test_labels)
    return Data(train[:batch_size], digits.train_labels[:batch_size], nn.CrossEntropyLoss(), held_out)


def _is_problem(value: Any) -> bool:
    from headwater.capture import Problem

    return isinstance(value, Problem)


def _data_of(value: Any, name: str) -> Data:
    if _is_problem(value):
        return Data(value.inputs, value.targets, value.loss)
    if isinstance(value, tuple) and 1 <= len(value) <= 3:
        return Data(*value)
    raise CommandError(
        f"expected '{name}' to give a headwater.Problem or a tuple (inputs, targets, loss), got {type(value).__name__}"
    )
