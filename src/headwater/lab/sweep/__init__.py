"""Sweeps: grids of networks, measured on all cores or a cluster, into a data set that survives whatever ends them."""

from headwater.lab.sweep.clusters import DaskExecutor as DaskExecutor
from headwater.lab.sweep.clusters import RayExecutor as RayExecutor
from headwater.lab.sweep.clusters import SlurmExecutor as SlurmExecutor
from headwater.lab.sweep.clusters import dask_executor as dask_executor
from headwater.lab.sweep.clusters import ray_executor as ray_executor
from headwater.lab.sweep.clusters import slurm_executor as slurm_executor
from headwater.lab.sweep.errors import SweepError as SweepError
from headwater.lab.sweep.errors import SweepWarning as SweepWarning
from headwater.lab.sweep.grid import Grid as Grid
from headwater.lab.sweep.grid import GridError as GridError
from headwater.lab.sweep.result import SweepResult as SweepResult
from headwater.lab.sweep.result import read_sweep as read_sweep
from headwater.lab.sweep.settings import Settings as Settings
from headwater.lab.sweep.sweep import sweep as sweep
