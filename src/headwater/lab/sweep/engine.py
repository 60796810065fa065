"""Engines: where the cells of a sweep are measured. Any `concurrent.futures.Executor` is one."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import BrokenExecutor, Executor, Future
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from headwater.lab.sweep.errors import SweepError

ENGINES = ("loky", "serial", "dask", "ray", "slurm")
_LOCAL_TASK_SECONDS = 0.5
_ORPHAN_SECONDS = 1.0  # between looks at whether the driver is there
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")


class SerialExecutor(Executor):
    """Runs each task at once, here, before `submit` returns.

    >>> SerialExecutor().submit(pow, 2, 3).result()
    8
    """

    num_workers = 1

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        try:
            future.set_result(fn(*args, **kwargs))
        except Exception as error:  # noqa: BLE001  # it is the future's to raise
            future.set_exception(error)
        return future


@dataclass
class Engine:
    """An executor, and what a driver must know of it.

    Args:
        executor: where tasks go.
        num_workers: that run at the same time.
        task_seconds: how long a task should take, for what it costs to start one.
        renew: makes another executor, where this one is broken; None where only its owner can.
    """

    executor: Executor
    num_workers: int
    task_seconds: float = _LOCAL_TASK_SECONDS
    renew: Callable[[], Executor] | None = None

    @property
    def is_serial(self) -> bool:
        """Whether `submit` itself does the work."""
        return isinstance(self.executor, SerialExecutor)

    @property
    def window(self) -> int:
        """How many tasks are out at once: one waits for each that runs."""
        return 1 if self.is_serial else 2 * self.num_workers

    def submit(self, task: Callable[..., Any], *args: Any) -> Future[Any]:
        """The future of a task.

        Raises:
            BrokenExecutor: the executor is broken.
        """
        try:
            return self.executor.submit(task, *args)
        except RuntimeError as error:
            if isinstance(error, BrokenExecutor):
                raise
            raise SweepError(
                f"the executor takes no tasks ({error}); what is finished is kept: run the same sweep again with another one"
            ) from error

    def replace(self, error: BaseException) -> None:
        """Goes on with a new executor, after the old one broke.

        Raises:
            SweepError: only its owner can make a new one.
        """
        if self.renew is None:
            raise SweepError(
                f"the executor is broken ({type(error).__name__}: a worker died); what is finished is kept: run the same sweep again "
                "with a new one"
            ) from error
        self.executor = self.renew()


@contextmanager
def opened_engine(executor: Executor | str | None, workers: int | None = None) -> Iterator[Engine]:
    """An engine, shut down at the end if it was made here.

    Args:
        executor: any executor; "serial"; None or "loky" for one process per core.
        workers: processes of loky; of other executors, how many tasks run at the same time, where they do not say.

    Raises:
        SweepError: there is no such engine, or it needs a package that is not installed.
    """
    if workers is not None and (not isinstance(workers, int) or isinstance(workers, bool) or workers < 1):
        raise SweepError(f"expected workers to be a whole number from 1, got {workers!r}")
    if executor is None or executor == "loky":
        yield from _loky(workers or _num_cores())
    elif executor == "serial":
        yield Engine(SerialExecutor(), 1)
    elif isinstance(executor, Executor):
        yield Engine(executor, workers or _workers_of(executor), getattr(executor, "task_seconds", _LOCAL_TASK_SECONDS))
    else:
        raise SweepError(
            f"expected a concurrent.futures.Executor, 'loky' or 'serial', got {executor!r}; dask_executor, ray_executor and "
            "slurm_executor of headwater.lab.sweep make executors of clusters"
        )


def _loky(workers: int) -> Iterator[Engine]:
    try:
        from loky.process_executor import ProcessPoolExecutor
    except ImportError:
        raise SweepError(
            "sweeps on all cores need loky: pip install 'headwater[lab]', or ask for the engine 'serial'"
        ) from None

    made: list[Any] = []

    def make() -> Executor:
        made.append(ProcessPoolExecutor(workers, initializer=prepare_worker, initargs=(os.getpid(),), env=_THREADS))
        return made[-1]

    def renew() -> Executor:
        made[-1].shutdown(wait=True, kill_workers=True)
        return make()

    try:
        yield Engine(make(), workers, renew=renew)
    except BaseException:
        made[-1].shutdown(wait=True, kill_workers=True)
        raise
    made[-1].shutdown(wait=True)


def prepare_worker(driver: int) -> None:
    """Makes a process a worker: Ctrl-C is the driver's to answer, torch has one thread, and it ends where its driver was killed.

    Args:
        driver: its process' number.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=(driver,), name="headwater-orphan-watch", daemon=True).start()
    import torch

    torch.set_num_threads(1)


def _end_with(driver: int) -> None:
    # A worker waits for its next task on a pipe that it holds the other end of too: it would wait for ever.
    while os.getppid() == driver:
        time.sleep(_ORPHAN_SECONDS)
    os._exit(1)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _workers_of(executor: Executor) -> int:
    for name in ("num_workers", "_max_workers"):
        if isinstance(found := getattr(executor, name, None), int) and found > 0:
            return found
    return _num_cores()
