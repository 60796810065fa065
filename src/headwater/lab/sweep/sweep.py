"""`sweep(grid)`: every cell of a grid measured, on all cores or a cluster, into a data set that survives."""

from __future__ import annotations

import shutil
import tempfile
import warnings
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from headwater.lab.sweep.cell import SpecificationMeasure
from headwater.lab.sweep.data_set import JOURNAL
from headwater.lab.sweep.errors import SweepError, SweepWarning
from headwater.lab.sweep.factory_cell import FactoryMeasure, digest_of
from headwater.lab.sweep.grid import Grid, GridError
from headwater.lab.sweep.parts import part_paths
from headwater.lab.sweep.result import SweepResult
from headwater.lab.sweep.run import Plan, run
from headwater.lab.sweep.settings import Settings, provenance
from headwater.lab.sweep.work import Measure


def sweep(
    grid: Grid | Mapping[str, Sequence[Any]],
    *,
    base: Mapping[str, Any] | Any = None,
    factory: Callable[..., Any] | None = None,
    inputs: Any = None,
    seeds: int | Sequence[int] = 32,
    executor: Executor | str | None = None,
    workers: int | None = None,
    output: str | Path | None = None,
    resume: bool = True,
    retry_failed: bool = False,
    impossible: str = "refuse",
    train: int = 0,
    progress: bool = True,
    **settings: Any,
) -> SweepResult:
    """The networks of a grid, each measured over seeds beside what theory expects.

    Each cell that is finished is on record before the next one is waited for: whatever ends the sweep, the same call goes on
    where it was. A cell that raises is a row that says so.

    Args:
        grid: values by the name of a field of `NetworkSpec`, or of an argument of the factory; expanded lazily.
        base: fields that are the same for all, or a `NetworkSpec`.
        factory: makes a module, or a `Problem`, from named arguments; built-in networks if left out. It is sent to the workers:
            a function of a module that they can import, or what cloudpickle can send.
        inputs: of the factory's modules; problems have their own.
        seeds: networks per cell, whose seeds are taken from a hash of its line; or the seeds themselves, for all cells the same.
        executor: any `concurrent.futures.Executor`; None for loky on all cores, "serial" for this process. `dask_executor`,
            `ray_executor` and `slurm_executor` of `headwater.lab.sweep` make executors of clusters.
        workers: of loky; of an executor that does not say, how many tasks it runs at the same time.
        output: folder of the data set; a temporary one, which goes with the result, if left out. (Where the sweep ends early, it
            stays, and a warning names it.)
        resume: go on with a data set that is there, which is refused otherwise.
        retry_failed: run the cells that failed once more.
        impossible: what to do about combinations that do not exist: "refuse" the grid, or "skip" them.
        train: steps of training per network, for its accuracy and loss after them; 0 for none.
        progress: draw a bar, where standard error is a terminal.
        settings: `seed`, `batch`, `data`, `findings`, `train_seeds`, `learning_rate`: see `Settings`.

    Raises:
        GridError: there is no such grid, or no such settings.
        SweepError: the data set cannot be written, or holds another sweep; the engine is not there, or gone.
        KeyboardInterrupt: after Ctrl-C; what is finished is kept, and `read_sweep` reads it.

    >>> result = sweep({"depth": [4, 8]}, base={"width": 16}, seeds=6, executor="serial", findings=False)
    >>> [row["depth"] for row in result.table().rows()]
    [4, 8]
    """
    if isinstance(grid, Grid) and (base is not None or factory is not None):
        raise GridError("a Grid has its base and its factory itself: name them there, or give the axes alone")
    if not isinstance(grid, Grid):
        grid = Grid(grid, {} if base is None else base, factory)
    if grid.factory is not None and isinstance(executor, ThreadPoolExecutor):
        raise SweepError("threads share the random generators that a factory draws from: use an executor of processes")
    if grid.factory is None and inputs is not None:
        raise GridError(
            "inputs are for the modules of a factory, and the built-in networks have data=: leave inputs out"
        )
    chosen = _settings(seeds=seeds, train=train, **settings)
    measure = SpecificationMeasure(chosen) if grid.factory is None else FactoryMeasure(grid.factory, chosen, inputs)
    plan = Plan(
        executor=executor,
        workers=workers,
        resume=resume,
        retry_failed=retry_failed,
        impossible=impossible,
        progress=progress,
    )
    header = provenance(grid, chosen, digest_of(inputs))
    if output is not None:
        run(grid, measure, Path(output), header, plan)
        return SweepResult(Path(output))
    return _temporary(grid, measure, header, plan)


def _temporary(grid: Grid, measure: Measure, header: Mapping[str, Any], plan: Plan) -> SweepResult:
    """A result whose folder goes with it; of a sweep that ends early, the folder stays and is named, if anything is in it."""
    folder = Path(tempfile.mkdtemp(prefix="headwater-sweep-"))
    try:
        run(grid, measure, folder, header, plan)
        result = SweepResult(folder)
    except BaseException:
        if part_paths(folder) or _has_rows(folder):
            warnings.warn(
                f"what is finished is in '{folder}': read_sweep reads it, and the same sweep with output= goes on there",
                SweepWarning,
                stacklevel=3,
            )
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    weakref.finalize(result, shutil.rmtree, folder, ignore_errors=True)
    return result


def _has_rows(folder: Path) -> bool:
    return (folder / JOURNAL).exists() and (folder / JOURNAL).stat().st_size > 0


def _settings(**given: Any) -> Settings:
    unknown = given.keys() - Settings.__dataclass_fields__.keys()
    if unknown:
        raise GridError(
            f"a sweep has no setting '{min(unknown)}'; there are {', '.join(Settings.__dataclass_fields__)}, and the arguments of sweep"
        )
    return Settings(**given)
