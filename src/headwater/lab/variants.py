"""The variants of a comparison: factories, specifications, or their lines, under a name each."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import Field, dataclass, fields
from functools import partial
from typing import Any, cast

from torch import nn

from headwater.capture import Problem, ProblemError
from headwater.capture.random_states import reseeded
from headwater.networks import NetworkSpec, SpecificationError

NetworkSource = Callable[[], nn.Module] | NetworkSpec | str


@dataclass(frozen=True, slots=True)
class Variant:
    """One of the networks that are compared.

    Args:
        name: of the user's.
        description: the specification's line, or the factory's name.
        source: a function without arguments that makes a new network, or a specification.
    """

    name: str
    description: str
    source: Callable[[], nn.Module] | NetworkSpec

    def network(self, seed: int) -> nn.Module:
        """A new network: what the factory makes under `torch.manual_seed(seed)` (numpy's and Python's generators likewise).

        Changes the random states: to be called where they are preserved.

        Raises:
            ProblemError: the factory failed, or made something else.

        >>> Variant("one", "a line", partial(nn.Linear, 1, 1)).network(seed=0)
        Linear(in_features=1, out_features=1, bias=True)
        """
        reseeded(seed)
        try:
            made = _built(self.source, seed) if isinstance(self.source, NetworkSpec) else self.source()
        except (Exception, SystemExit) as error:  # sys.exit() in a training script, too, must not end us without a word
            message = (str(error).strip().splitlines() or ["no message"])[0]
            raise ProblemError(f"the factory failed: {type(error).__name__}: {message}") from error
        if isinstance(made, Problem):
            raise ProblemError("expected the factory to make a torch.nn.Module, got a Problem; return its model alone")
        if not isinstance(made, nn.Module):
            raise ProblemError(f"expected the factory to make a torch.nn.Module, got {type(made).__name__}")
        return made


def variants_of(given: Mapping[str, NetworkSource] | Sequence[str | NetworkSpec]) -> tuple[Variant, ...]:
    """The variants that a mapping of names, or a sequence of specifications, stands for; the first one is the baseline.

    Without names, a specification is named by the fields that it does not share with the others.

    Raises:
        ProblemError: fewer than two, two of one name, a source that is neither a factory nor a specification, or a line that is
            no specification.

    >>> [variant.name for variant in variants_of(["mlp depth=20", "mlp depth=20 shortcut=identity"])]
    ['shortcut=none', 'shortcut=identity']
    """
    named = given if isinstance(given, Mapping) else _named(given)
    if len(named) < 2:
        raise ProblemError(f"expected two variants or more to compare, got {len(named)}")
    for name in named:
        if not isinstance(name, str) or not name.strip():
            raise ProblemError(f"expected each variant to have a name, got {name!r}")
    return tuple(_variant(name, source) for name, source in named.items())


def _variant(name: str, source: Any) -> Variant:
    if isinstance(source, str):
        source = parsed(source)
    if isinstance(source, NetworkSpec):
        return Variant(name, str(source), source)
    if isinstance(source, nn.Module):
        raise ProblemError(
            f"variant '{name}' is a network, and each seed needs a new one: give a function that makes it, "
            f"as in lambda: {type(source).__name__}(...)"
        )
    if not callable(source):
        raise ProblemError(
            f"expected variant '{name}' to be a function that makes a network, a NetworkSpec, or a line such as "
            f"'mlp depth=20', got {type(source).__name__}"
        )
    return Variant(name, _name_of(source), cast("Callable[[], nn.Module]", source))


def _name_of(factory: Callable[..., Any]) -> str:
    if isinstance(factory, partial):
        given = [repr(value) for value in factory.args] + [
            f"{key}={value!r}" for key, value in factory.keywords.items()
        ]
        return f"{_name_of(factory.func)}({', '.join(given)})"
    factory = getattr(factory, "__wrapped__", factory)  # what it stands for
    name = getattr(factory, "__qualname__", type(factory).__qualname__)
    return f"{getattr(factory, '__module__', '')}.{name}"


def _named(given: Sequence[str | NetworkSpec]) -> dict[str, NetworkSource]:
    if isinstance(given, str | NetworkSpec) or not isinstance(given, Sequence):
        raise ProblemError(
            f"expected a mapping of names to variants, or several specifications, got {type(given).__name__}"
        )
    specs = [parsed(each) if isinstance(each, str) else each for each in given]
    if not all(isinstance(spec, NetworkSpec) for spec in specs):
        raise ProblemError("expected factories to have names: {'plain': make_plain, 'shortcut': make_shortcut}")
    names = names_of(specs) if len(specs) > 1 else [str(spec) for spec in specs]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ProblemError(f"two variants are the same network: {specs[names.index(twice)]}")
    return dict(zip(names, specs, strict=True))


def names_of(specs: Sequence[NetworkSpec]) -> list[str]:
    """A short name for each specification: the fields in which they are not all alike, but for those that are as by default.

    >>> names_of([NetworkSpec(depth=20), NetworkSpec(depth=20, activation="tanh"), NetworkSpec(depth=5)])
    ['depth=20', 'depth=20 activation=tanh', 'depth=5']
    """
    differing = [field for field in fields(NetworkSpec) if len({getattr(spec, field.name) for spec in specs}) > 1]
    return [
        _name_by(spec, [f for f in differing if getattr(spec, f.name) != f.default]) or _name_by(spec, differing)
        for spec in specs
    ]


def _name_by(spec: NetworkSpec, chosen: Sequence[Field[Any]]) -> str:
    values = {field.name: getattr(spec, field.name) for field in chosen}
    return " ".join(str(value) if name == "family" else f"{name}={value}" for name, value in values.items())


def parsed(line: str) -> NetworkSpec:
    """The specification that a line says.

    Raises:
        ProblemError: it says none.

    >>> parsed("mlp depth=3").depth
    3
    """
    try:
        return NetworkSpec.parse(line)
    except SpecificationError as error:
        raise ProblemError(str(error)) from None


def _built(spec: NetworkSpec, seed: int) -> nn.Module:
    from headwater.networks.build import build

    return build(spec, seed)
