"""The same rows on every engine as in this process, bit for bit: loky, threads, Dask, Ray and submitit run for real."""

from __future__ import annotations

import importlib.util
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
import torch

import headwater as hw
from headwater.lab.sweep import SweepError, dask_executor, ray_executor, slurm_executor

GRID = {"activation": ["tanh", "relu"], "depth": [4, 9], "normalisation": ["none", "batch"]}
BASE = {"width": 12, "shortcut": "identity"}


def swept(executor, **options):
    return hw.sweep(GRID, base=BASE, seeds=6, executor=executor, train=3, progress=False, **options)


@pytest.fixture(scope="module")
def serial():
    return swept("serial")


def needs(package):
    return pytest.mark.skipif(importlib.util.find_spec(package) is None, reason=f"{package} is not installed")


@contextmanager
def cluster(executor):
    """Warnings of a cluster's own threads and sockets are not ours to answer for."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made = executor()
        try:
            yield made
        finally:
            made.shutdown()


def same(result, serial):
    assert result.failures() == {}
    assert result.table() == serial.table()
    assert result.seeds() == serial.seeds()
    assert len(result) == 8


def test_rows_do_not_depend_on_the_threads_of_the_process(serial):
    torch.set_num_threads(2)
    try:
        same(swept("serial"), serial)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)


def test_the_process_keeps_its_random_generators(serial):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    swept("serial")
    assert torch.equal(torch.get_rng_state(), before)


def test_threads_give_the_same(serial):
    with ThreadPoolExecutor(2) as executor:
        same(swept(executor), serial)


@needs("loky")
def test_loky_gives_the_same(serial):
    same(swept(None, workers=2), serial)


@needs("distributed")
def test_dask_gives_the_same(serial):
    with cluster(lambda: dask_executor(workers=2)) as executor:
        assert executor.num_workers == 2
        same(swept(executor), serial)


@needs("ray")
def test_ray_gives_the_same(serial, monkeypatch):
    monkeypatch.setenv("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    with cluster(lambda: ray_executor(workers=2)) as executor:
        assert executor.num_workers == 2
        same(swept(executor), serial)


@needs("submitit")
def test_submitit_gives_the_same(serial, tmp_path):
    with cluster(lambda: slurm_executor(tmp_path / "logs", cluster="local", workers=1, timeout_min=5)) as executor:
        same(swept(executor), serial)


@needs("distributed")
def test_a_dask_scheduler_that_is_not_there_is_one_sentence(monkeypatch):
    monkeypatch.setattr("headwater.lab.sweep.clusters._CONNECT_SECONDS", 1)
    with pytest.raises(
        SweepError, match=r"the Dask scheduler at tcp://127.0.0.1:9 cannot be reached .* is it running\?"
    ):
        dask_executor("tcp://127.0.0.1:9")


@needs("submitit")
@pytest.mark.skipif(os.system("which srun > /dev/null 2>&1") == 0, reason="there is a Slurm here")
def test_a_slurm_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(SweepError, match="the Slurm cannot be reached"):
        slurm_executor(tmp_path / "logs")
