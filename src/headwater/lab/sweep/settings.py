"""What is measured of each cell of a sweep, beside what the cell itself says."""

from __future__ import annotations

import platform
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from headwater._version import __version__
from headwater.lab.sweep.columns import SCHEMA_VERSION
from headwater.lab.sweep.grid import Cell, Grid, GridError, hash_of, plain_number

DATA = ("gaussian", "digits")
_SEED_BITS = 48  # what every generator takes, and a float holds


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What is measured. The same settings and the same cell give the same row, on any engine.

    Args:
        seeds: networks per cell, whose seeds are taken from a hash of the cell's line; or the seeds themselves, the same for all
            cells, which are then paired.
        seed: another one makes other networks of the same grid.
        batch: samples of the pass that is measured.
        data: "gaussian": inputs N(0, 1), labelled by a random linear map; "digits": scikit-learn's handwritten digits.
        findings: judge one recorded pass of each cell's first network.
        train: steps of training; 0 for none.
        train_seeds: how many of the cell's networks are trained.
        learning_rate: of plain SGD.

    Raises:
        GridError: a field has no such value.
    """

    seeds: int | tuple[int, ...] = 32
    seed: int = 0
    batch: int = 32
    data: str = "gaussian"
    findings: bool = True
    train: int = 0
    train_seeds: int = 4
    learning_rate: float = 0.01

    def __post_init__(self) -> None:
        if isinstance(self.seeds, Iterable):
            object.__setattr__(self, "seeds", tuple(plain_number(seed) for seed in self.seeds))
        for name in ("seeds", "seed", "batch", "train", "train_seeds"):
            object.__setattr__(self, name, plain_number(getattr(self, name)))
        listed = isinstance(self.seeds, tuple)
        if listed and (not self.seeds or not all(_is_count(seed, 0) for seed in self.seeds)):  # type: ignore[union-attr]
            raise GridError(f"expected seeds to be whole numbers from 0, at least one, got {list(self.seeds)}")  # type: ignore[arg-type]
        if listed and len(set(self.seeds)) < len(self.seeds):  # type: ignore[arg-type]
            raise GridError("expected each seed once: the same one again is no more evidence")
        counts = {"batch": 1, "train": 0, "train_seeds": 1, "seed": 0, **({} if listed else {"seeds": 1})}
        for name, least in counts.items():
            if not _is_count(getattr(self, name), least):
                raise GridError(f"expected {name} to be a whole number from {least}, got {getattr(self, name)!r}")
        if self.data not in DATA:
            raise GridError(f"expected data to be one of {', '.join(DATA)}, got {self.data!r}")
        if not isinstance(self.learning_rate, int | float) or not 0.0 < self.learning_rate < float("inf"):
            raise GridError(f"expected learning_rate to be a number above 0, got {self.learning_rate!r}")

    @property
    def num_seeds(self) -> int:
        """Networks per cell."""
        return self.seeds if isinstance(self.seeds, int) else len(self.seeds)

    def seeds_of(self, cell: Cell) -> list[int]:
        """The seeds of a cell's networks: 48 bits of a hash of its line and their number.

        >>> cell = Cell("mlp depth=4 width=64", {})
        >>> Settings(seeds=2).seeds_of(cell) == Settings(seeds=3).seeds_of(cell)[:2]
        True
        >>> Settings(seeds=(5, 6)).seeds_of(cell)
        [5, 6]
        """
        if not isinstance(self.seeds, int):
            return list(self.seeds)
        return [hash_of(self.seed, cell.line, number) >> (64 - _SEED_BITS) for number in range(self.seeds)]


def provenance(grid: Grid, settings: Settings, inputs: str | None = None) -> dict[str, Any]:
    """The header of a sweep's data set: schema version, versions of the software, grid and settings.

    Args:
        grid: of the cells.
        settings: what is measured.
        inputs: a hash of the inputs of a factory's modules.

    >>> provenance(Grid({"depth": [2]}), Settings())["schema_version"]
    1
    """
    return {
        "format": "headwater sweep",
        "schema_version": SCHEMA_VERSION,
        "versions": {"headwater": __version__, "python": platform.python_version(), **_versions("torch", "numpy")},
        "grid": {
            "axes": {name: list(values) for name, values in grid.axes.items()},
            "base": dict(grid.base),
            "factory": None if grid.factory is None else next(iter(grid.cells())).line.split(" ")[0],
        },
        "settings": {**_plain(asdict(settings)), "inputs": inputs},
    }


def _plain(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in settings.items()}


def _versions(*packages: str) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # a build of one's own
            found[package] = "unknown"
    return found


def _is_count(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
