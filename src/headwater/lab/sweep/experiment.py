"""An experiment in TOML: what to sweep, on which data, where, and where to."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from headwater.lab.sweep.clusters import dask_executor, ray_executor, slurm_executor
from headwater.lab.sweep.engine import ENGINES
from headwater.lab.sweep.errors import SweepError
from headwater.lab.sweep.grid import Grid, GridError
from headwater.lab.sweep.result import SweepResult
from headwater.lab.sweep.settings import Settings
from headwater.lab.sweep.sweep import sweep
from headwater.networks.specification import COUNTS

_TABLES = ("grid", "base", "data", "measure", "engine", "output")
_OF_MEASURE = ("seeds", "seed", "findings", "train", "train_seeds", "learning_rate", "impossible")
_OF_DATA = ("kind", "batch")
_OF_RANGE = ("from", "to", "num", "spacing")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineChoice:
    """Where the cells are measured.

    Args:
        kind: "loky", "serial", "dask", "ray" or "slurm".
        workers: how many run at the same time; None for what there is.
        address: of a Dask scheduler or a Ray cluster.
        options: of submitit.

    Raises:
        GridError: there is no such engine, or it takes no such option.
    """

    kind: str = "loky"
    workers: int | None = None
    address: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in ENGINES:
            raise GridError(f"expected the engine to be one of {', '.join(ENGINES)}, got {self.kind!r}")
        if self.workers is not None and (not isinstance(self.workers, int) or self.workers < 1):
            raise GridError(f"expected the engine's workers to be a whole number from 1, got {self.workers!r}")
        if self.address is not None and self.kind not in ("dask", "ray"):
            raise GridError(f"an address is of a Dask or a Ray cluster, and the engine is {self.kind!r}")
        if self.options and self.kind != "slurm":
            raise GridError(
                f"the engine {self.kind!r} has no option '{next(iter(self.options))}'; it has kind, workers and address"
            )

    @contextmanager
    def opened(self) -> Iterator[Executor | str]:
        """What `sweep` takes as its executor; a cluster's is shut down at the end.

        Raises:
            SweepError: the cluster does not answer, or its package is not installed.
        """
        if self.kind in ("loky", "serial"):
            yield self.kind
            return
        executor = self._cluster()
        try:
            yield executor
        except BaseException:
            executor.shutdown(wait=False, cancel_futures=True)
            raise
        executor.shutdown()

    def _cluster(self) -> Executor:
        if self.kind == "dask":
            return dask_executor(self.address, workers=self.workers)
        if self.kind == "ray":
            return ray_executor(self.address, workers=self.workers)
        return slurm_executor(**({} if self.workers is None else {"workers": self.workers}), **self.options)


@dataclass(frozen=True, slots=True, kw_only=True)
class Experiment:
    """A sweep that is described and not yet run.

    Args:
        axes, base: of the grid.
        settings: of `sweep`: seeds, train, batch and the like.
        engine: where.
        output: folder of the results.
    """

    axes: Mapping[str, Any]
    base: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    engine: EngineChoice = field(default_factory=EngineChoice)
    output: Path = Path("sweep-results")

    def with_values(self, name: str, values: list[Any]) -> Experiment:
        """The experiment with other values for a parameter: an axis for several, part of the base for one.

        >>> Experiment(axes={"depth": [4, 8]}).with_values("depth", [16]).base
        {'depth': 16}
        """
        axes = {**self.axes, name: values} if len(values) > 1 else {n: v for n, v in self.axes.items() if n != name}
        base = {n: v for n, v in self.base.items() if n != name}
        return replace(self, axes=axes, base=base if len(values) > 1 else {**base, name: values[0]})

    def checked(self) -> Experiment:
        """The experiment itself, if it can be run.

        Raises:
            GridError: there is no such grid, or no such settings.
        """
        Settings(**{name: value for name, value in self.settings.items() if name != "impossible"})
        Grid(self.axes, self.base)
        return self

    def run(self, *, resume: bool = True, retry_failed: bool = False, progress: bool = True) -> SweepResult:
        """The result, once all cells are there. Whatever `sweep` raises."""
        with self.engine.opened() as executor:
            return sweep(
                dict(self.axes),
                base=dict(self.base),
                executor=executor,
                workers=self.engine.workers,
                output=self.output,
                resume=resume,
                retry_failed=retry_failed,
                progress=progress,
                **self.settings,
            )


def read_experiment(path: str | Path) -> Experiment:
    """The experiment that a TOML file describes.

    Raises:
        SweepError: the file cannot be read.
        GridError: it is no TOML, or describes no experiment; the message names the table.

    >>> read_experiment("no such file.toml")
    Traceback (most recent call last):
    headwater.lab.sweep.errors.SweepError: cannot read 'no such file.toml': No such file or directory
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(
            f"cannot read '{path}': {getattr(error, 'strerror', None) or 'it is no text in UTF-8'}"
        ) from None
    try:
        return parse_experiment(text)
    except GridError as error:
        raise GridError(f"'{path}': {error}") from None


def parse_experiment(text: str) -> Experiment:
    r"""The experiment that TOML describes, in the tables [grid], [base], [data], [measure], [engine] and [output].

    Raises:
        GridError: it is no TOML, or describes no experiment; the message names the table.

    >>> experiment = parse_experiment('[grid]\ndepth = [4, 8]\nweight_variance = {from = 1, to = 2, num = 3}')
    >>> experiment.axes
    {'depth': [4, 8], 'weight_variance': [1.0, 1.5, 2.0]}
    """
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise GridError(f"expected TOML: {error}") from None
    _check_names("the file", tables, _TABLES)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise GridError(f"expected [{name}] to be a table, got {name} = {table!r}")
    if not tables.get("grid"):
        raise GridError("expected a table [grid] with values by parameter, as in depth = [4, 8, 16]")
    data, measure, engine = (dict(tables.get(name, {})) for name in ("data", "measure", "engine"))
    _check_names("[data]", data, _OF_DATA)
    _check_names("[measure]", measure, _OF_MEASURE)
    if "kind" in data:
        data["data"] = data.pop("kind")
    return Experiment(
        axes={name: _values(name, values) for name, values in tables["grid"].items()},
        base=tables.get("base", {}),
        settings={**data, **measure},
        engine=_engine(engine),
        output=_output(tables.get("output", {})),
    ).checked()


def _engine(table: dict[str, Any]) -> EngineChoice:
    named = {name: table.pop(name) for name in ("kind", "workers", "address") if name in table}
    return EngineChoice(**named, options=table)


def _output(table: Mapping[str, Any]) -> Path:
    _check_names("[output]", table, ("folder",))
    folder = table.get("folder", "sweep-results")
    if not isinstance(folder, str) or not folder:
        raise GridError(f"expected the folder in [output] to be a path, got {folder!r}")
    return Path(folder)


def _values(name: str, values: Any) -> list[Any]:
    """A list as it is, one value as a list of one, and {from, to, num, spacing} as so many values."""
    if not isinstance(values, dict):
        return values if isinstance(values, list) else [values]
    _check_names(f"the range of '{name}' in [grid]", values, _OF_RANGE)
    try:
        first, last, num = float(values["from"]), float(values["to"]), index(values["num"])
    except (KeyError, TypeError, ValueError, OverflowError):
        raise GridError(
            f"expected the range of '{name}' in [grid] to be {{from = 1.0, to = 4.0, num = 13}}, got {values}"
        ) from None
    spacing = values.get("spacing", "linear")
    if num < 1 or spacing not in ("linear", "log") or (spacing == "log" and min(first, last) <= 0.0):
        raise GridError(
            f"expected the range of '{name}' in [grid] to have num from 1 and spacing 'linear', or 'log' between numbers above 0, got {values}"
        )
    points = np.linspace(first, last, num) if spacing == "linear" else np.geomspace(first, last, num)
    found = [float(f"{point:.12g}") for point in points]
    return [int(each) if name in COUNTS and each.is_integer() else each for each in found]


def _check_names(where: str, table: Mapping[str, Any], known: tuple[str, ...]) -> None:
    unknown = [name for name in table if name not in known]
    if unknown:
        raise GridError(f"{where} has no '{unknown[0]}'; it has {', '.join(known)}")
