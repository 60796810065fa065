"""Executors of clusters: Dask, Ray, and Slurm through submitit."""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from headwater.lab.sweep.errors import SweepError

_CONNECT_SECONDS = 10
_POLL_SECONDS = 1.0
_JOB_SECONDS = 300.0  # of work per job: a Slurm job takes seconds to start, and queues are not made for thousands


class DaskExecutor(Executor):
    """The executor of a Dask client; shuts down what `dask_executor` made.

    Args:
        client: a `distributed.Client`.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._inner = client.get_executor(pure=False, retries=0)

    @property
    def num_workers(self) -> int:
        """Threads of all workers."""
        return max(1, sum(self._client.nthreads().values()))

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future of a task on the cluster."""
        return self._inner.submit(fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Closes the client, and its cluster if it made one."""
        self._inner.shutdown(wait=wait and not cancel_futures)
        self._client.close()


def dask_executor(address: str | None = None, *, workers: int | None = None) -> DaskExecutor:
    """An executor of a Dask cluster; `client.get_executor()` of a client of your own does as well.

    Args:
        address: of the scheduler, as "tcp://10.0.0.1:8786"; a cluster of processes on this machine if left out.
        workers: of the cluster on this machine.

    Raises:
        SweepError: Dask is not installed, or the scheduler does not answer.
    """
    distributed = _package("distributed", "dask")
    try:
        if address is not None:
            return DaskExecutor(distributed.Client(address, timeout=_CONNECT_SECONDS))
        return DaskExecutor(
            distributed.Client(
                n_workers=workers,
                threads_per_worker=1,
                dashboard_address=None,
                processes=True,
                silence_logs=logging.CRITICAL,  # that a worker takes seconds to end
            )
        )
    except (OSError, TimeoutError, ValueError) as error:
        raise _unreachable("Dask scheduler", address, error) from error


class RayExecutor(Executor):
    """An executor of the Ray cluster that this process is connected to.

    Args:
        num_cpus: of a task.
        options: others of `ray.remote`.
    """

    def __init__(self, *, num_cpus: float = 1, **options: Any) -> None:
        ray = _package("ray", "ray")
        self.num_workers = max(1, math.floor(ray.cluster_resources().get("CPU", 1) / num_cpus))
        # A task that is lost with its worker comes back as lost: the driver knows better than Ray which cell is to blame.
        self._run = ray.remote(num_cpus=num_cpus, max_retries=0, **options)(_called)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future of a task on the cluster."""
        return self._run.remote(fn, args, kwargs).future()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Disconnects from the cluster, and ends it if it runs on this machine for this process."""
        del wait, cancel_futures  # Ray cancels what has not run
        _package("ray", "ray").shutdown()


def _called(fn: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return fn(*args, **kwargs)


def ray_executor(address: str | None = None, *, workers: int | None = None) -> RayExecutor:
    """An executor of a Ray cluster.

    Args:
        address: of the cluster, as "auto" or "ray://10.0.0.1:10001"; a cluster on this machine if left out.
        workers: of the cluster on this machine.

    Raises:
        SweepError: Ray is not installed, or the cluster does not answer.
    """
    ray = _package("ray", "ray")
    if not ray.is_initialized():
        options = {"include_dashboard": False, "num_cpus": workers} if address is None else {"address": address}
        try:
            ray.init(log_to_driver=False, logging_level="error", **options)
        except (OSError, RuntimeError, ValueError, TimeoutError) as error:  # a ConnectionError is an OSError
            raise _unreachable("Ray cluster", address, error) from error
    return RayExecutor()


class SlurmExecutor(Executor):
    """An executor whose tasks are Slurm jobs, submitted and polled by submitit.

    Args:
        folder: of submitit's logs, which all nodes can write.
        cluster: "slurm", or "local" for processes on this machine, as a rehearsal.
        num_workers: jobs that run at the same time.
        parameters: of submitit, as timeout_min, slurm_partition.

    Raises:
        SweepError: submitit is not installed, there is no Slurm here, or it does not know a parameter.
    """

    task_seconds = _JOB_SECONDS

    def __init__(
        self, folder: str | Path = "slurm-logs", *, cluster: str = "slurm", num_workers: int = 64, **parameters: Any
    ) -> None:
        submitit = _package("submitit", "slurm")
        self.num_workers = num_workers
        try:
            self._inner = submitit.AutoExecutor(folder=folder, cluster=cluster)
            self._inner.update_parameters(**{"cpus_per_task": 1, "timeout_min": 60, **parameters})
        except (OSError, RuntimeError, ValueError, NameError, TypeError) as error:
            raise _unreachable("Slurm", None, error) from error
        self._open: queue.SimpleQueue[tuple[Any, Future[Any]] | None] = queue.SimpleQueue()
        self._stopped = threading.Event()
        self._poller = threading.Thread(target=self._poll, name="headwater-slurm", daemon=True)
        self._poller.start()

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """The future of a job."""
        future: Future[Any] = Future()
        future.set_running_or_notify_cancel()  # a job is cancelled by `shutdown`, and not by its future
        self._open.put((self._inner.submit(fn, *args, **kwargs), future))
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Waits for the jobs, or cancels them."""
        if not wait or cancel_futures:
            self._stopped.set()
        self._open.put(None)
        self._poller.join()

    def _poll(self) -> None:
        """Asks for each open job, again and again, until it has ended."""
        jobs: list[tuple[Any, Future[Any]]] = []
        is_open = True
        while (is_open or jobs) and not self._stopped.is_set():
            with suppress(queue.Empty):
                item = self._open.get(timeout=_POLL_SECONDS)
                is_open = is_open and item is not None
                jobs += [] if item is None else [item]
                continue  # take all that wait, before asking
            jobs = [(job, future) for job, future in jobs if not _answered(job, future)]
        for job, future in jobs:
            job.cancel(check=False)
            future.set_exception(RuntimeError("the job was cancelled"))


def _answered(job: Any, future: Future[Any]) -> bool:
    """Whether a job has ended; its future then says how."""
    if not job.done():
        return False
    try:
        future.set_result(job.result())
    except Exception as error:  # noqa: BLE001  # the job's, or submitit's where the job was killed
        future.set_exception(error)
    return True


def slurm_executor(
    folder: str | Path = "slurm-logs", *, cluster: str = "slurm", workers: int = 64, **parameters: Any
) -> SlurmExecutor:
    """An executor whose tasks are Slurm jobs; see `SlurmExecutor`.

    Args:
        folder: of submitit's logs, which all nodes can write.
        cluster: "slurm", or "local" for processes on this machine.
        workers: jobs that run at the same time.
        parameters: of submitit, as timeout_min, slurm_partition.

    Raises:
        SweepError: submitit is not installed, there is no Slurm here, or it does not know a parameter.
    """
    return SlurmExecutor(folder, cluster=cluster, num_workers=workers, **parameters)


def _package(name: str, extra: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError:
        raise SweepError(
            f"this engine needs {name}, which is not installed: pip install 'headwater[{extra}]'"
        ) from None


def _unreachable(what: str, address: str | None, error: BaseException) -> SweepError:
    lines = str(error).strip().splitlines()
    where = f" at {address}" if address else ""
    return SweepError(
        f"the {what}{where} cannot be reached ({lines[0] if lines else type(error).__name__}); is it running?"
    )
