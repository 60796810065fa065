"""Whatever ends a sweep, the same call goes on: killed drivers, Ctrl-C, damaged parts, failed cells, larger grids."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import headwater as hw
from headwater.lab.sweep import Grid, GridError, SweepError, SweepWarning
from headwater.lab.sweep.data_set import JOURNAL
from headwater.lab.sweep.heat_map import heat_map_data
from headwater.lab.sweep.journal import read_journal
from headwater.lab.sweep.parts import part_paths
from headwater.lab.sweep.run import Plan, run
from headwater.lab.sweep.settings import Settings, provenance
from tests.lab.sweep.cells import grid_of, measure_number

GRID = {"depth": [2, 3, 4], "activation": ["tanh", "relu"]}
OPTIONS = {"base": {"width": 8}, "seeds": 6, "executor": "serial", "findings": False, "progress": False}

DRIVER = """
import os, sys
os.environ["HEADWATER_TEST_DRIVER"] = str(os.getpid())
from pathlib import Path
from headwater.lab.sweep.run import Plan, run
from headwater.lab.sweep.settings import Settings, provenance
from tests.lab.sweep import cells
grid = cells.grid_of(400)
run(grid, getattr(cells, sys.argv[3]), Path(sys.argv[1]), provenance(grid, Settings()), Plan(executor=sys.argv[2], workers=2))
"""


def stopped(folder, engine, measure):
    """A driver that was stopped at one of its cells, by that cell: its exit code and what it printed."""
    command = [sys.executable, "-c", DRIVER, folder, engine, measure]
    process = subprocess.run(command, capture_output=True, text=True, start_new_session=True, check=False)
    return process.returncode, process.stderr


def resumed(folder):
    calls = []

    def measure(cell):
        calls.append(cell.key)
        return measure_number(cell)

    grid = grid_of(400)
    run(grid, measure, folder, provenance(grid, Settings()), Plan(executor="serial"))
    return calls


@pytest.mark.parametrize("engine", ["serial", "loky"])
def test_a_driver_that_is_killed_loses_no_finished_cell(tmp_path, engine):
    code, _ = stopped(tmp_path / "out", engine, "measure_and_kill")
    assert code == -signal.SIGKILL
    kept = read_journal(tmp_path / "out" / JOURNAL)[0]
    assert 0 < len(kept) < 400
    assert part_paths(tmp_path / "out") == []
    partial = hw.read_sweep(tmp_path / "out")  # can be read as it lies there
    assert sorted(partial.to_arrow(["cell"])["cell"].to_pylist()) == sorted(row["cell"] for row in kept)
    calls = resumed(tmp_path / "out")
    assert {f"{key:016x}" for key in calls}.isdisjoint(row["cell"] for row in kept)
    assert len(calls) == 400 - len(kept)
    assert len(hw.read_sweep(tmp_path / "out")) == 400


@pytest.mark.parametrize("engine", ["serial", "loky"])
def test_ctrl_c_leaves_a_readable_result_and_no_noise_of_workers(tmp_path, engine):
    code, errors = stopped(tmp_path / "out", engine, "measure_and_interrupt")
    assert code == -signal.SIGINT
    assert errors.count("Traceback") == 1  # this driver's own, as KeyboardInterrupt passes through
    assert read_journal(tmp_path / "out" / JOURNAL) == ([], 0)  # all is in a part
    num_kept = len(hw.read_sweep(tmp_path / "out"))
    assert 0 < num_kept < 400
    assert len(resumed(tmp_path / "out")) == 400 - num_kept


def test_the_same_call_measures_nothing_twice_and_a_larger_grid_only_what_is_new(tmp_path):
    first = hw.sweep(GRID, output=tmp_path / "out", **OPTIONS)
    parts = part_paths(tmp_path / "out")
    again = hw.sweep(GRID, output=tmp_path / "out", **OPTIONS)
    assert again.table() == first.table()
    assert part_paths(tmp_path / "out") == parts
    larger = hw.sweep({**GRID, "depth": [2, 3, 4, 5]}, output=tmp_path / "out", **OPTIONS)
    assert len(larger) == 8
    assert part_paths(tmp_path / "out")[:-1] == parts
    assert hw.sweep({**GRID, "depth": [2, 3, 4, 5]}, **OPTIONS).table() == larger.table()


def test_cells_of_runs_with_another_base_are_lines_of_their_own_in_every_fit(tmp_path):
    alone = {}
    for activation in ("relu", "tanh"):
        base = {"width": 8, "activation": activation}
        options = dict(base=base, seeds=6, findings=False, executor="serial", progress=False)
        alone[activation] = hw.sweep({"depth": [2, 4, 8]}, **options).depth_scales().rows()[0]
        result = hw.sweep({"depth": [2, 4, 8]}, output=tmp_path, **options)
    for row in result.depth_scales().rows():
        expected = alone[row.pop("activation")]
        assert row == expected
    assert [row["activation"] for row in result.trainable_depth().rows()] == ["relu", "tanh"]
    with pytest.raises(SweepError, match="shows one value of 'activation'"):
        heat_map_data(result, x="width")


def test_a_damaged_part_is_named_and_its_cells_run_again(tmp_path):
    whole = hw.sweep(GRID, output=tmp_path / "out", **OPTIONS).table()
    (part,) = part_paths(tmp_path / "out")
    part.write_bytes(part.read_bytes()[:500])
    with pytest.warns(SweepWarning, match=r"part-000001.parquet' is damaged .* its cells are left out"):
        assert len(hw.read_sweep(tmp_path / "out")) == 0
    with pytest.warns(SweepWarning, match=r"part-000001.parquet' is damaged .* run again"):
        again = hw.sweep(GRID, output=tmp_path / "out", **OPTIONS)
    with warnings.catch_warnings(action="error"):
        assert again.table() == whole


def failing(depth, fault="yes"):
    if depth == 3 and fault == "yes" and "HEADWATER_TEST_REPAIRED" not in os.environ:
        raise ValueError("no such depth")
    layers = [layer for _ in range(depth) for layer in (nn.Linear(4, 4), nn.Tanh())]
    return hw.Problem(nn.Sequential(*layers, nn.Linear(4, 1)), torch.ones(3, 4), torch.zeros(3, 1), nn.MSELoss())


def test_a_cell_that_raises_is_kept_with_its_sentence_and_runs_again_on_request(tmp_path, monkeypatch):
    options = {**OPTIONS, "base": {}, "factory": failing, "output": tmp_path / "out"}
    result = hw.sweep({"depth": [2, 3, 4]}, **options)
    line = "tests.lab.sweep.test_resume.failing depth=3"
    assert result.failures() == {line: "ValueError: no such depth"}
    assert [row["status"] for row in result.table().rows()] == ["done", "failed", "done"]
    monkeypatch.setenv("HEADWATER_TEST_REPAIRED", "yes")
    assert hw.sweep({"depth": [2, 3, 4]}, **options).failures() == {line: "ValueError: no such depth"}
    repaired = hw.sweep({"depth": [2, 3, 4]}, retry_failed=True, **options)
    assert repaired.failures() == {}
    assert [row["status"] for row in repaired.table().rows()] == ["done"] * 3
    assert len(repaired) == 3


def test_another_sweep_in_the_same_folder_is_refused_and_nothing_is_touched(tmp_path):
    hw.sweep(GRID, output=tmp_path / "out", **OPTIONS)
    before = sorted((path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir())
    with pytest.raises(SweepError, match="holds a sweep with seeds = 6, and this one has 7"):
        hw.sweep(GRID, output=tmp_path / "out", **{**OPTIONS, "seeds": 7})
    with pytest.raises(SweepError, match="resume it, or name another folder"):
        hw.sweep(GRID, output=tmp_path / "out", resume=False, **OPTIONS)
    assert sorted((path.name, path.read_bytes()) for path in (tmp_path / "out").iterdir()) == before


def test_other_inputs_are_another_sweep(tmp_path):
    options = {**OPTIONS, "base": {}, "factory": plain_module, "output": tmp_path / "out"}
    hw.sweep({"width": [3, 4]}, inputs=torch.ones(2, 5), **options)
    with pytest.raises(SweepError, match="holds a sweep with inputs = "):
        hw.sweep({"width": [3, 4]}, inputs=torch.zeros(2, 5), **options)


def plain_module(width):
    return nn.Sequential(nn.Linear(5, width), nn.Tanh(), nn.Linear(width, 2))


def test_impossible_cells_are_refused_with_their_number_or_skipped():
    grid = {"initialisation": ["he", "rezero"], "shortcut": ["none", "identity"]}
    with pytest.raises(
        GridError, match=r"1 of the grid's 4 combinations do not exist \(initialisation 'rezero' is about"
    ):
        hw.sweep(grid, **OPTIONS)
    assert len(hw.sweep(grid, impossible="skip", **OPTIONS)) == 3
    with pytest.raises(GridError, match="expected impossible to be 'refuse' or 'skip'"):
        hw.sweep(grid, impossible="ignore", **OPTIONS)


def test_a_factory_and_built_in_networks_are_not_the_same_sweep(tmp_path):
    hw.sweep({"depth": [2]}, output=tmp_path, **OPTIONS)
    with pytest.raises(
        SweepError, match=r"holds a sweep with factory = None, and this one has .*_interrupted_at_three"
    ):
        hw.sweep({"depth": [2]}, factory=_interrupted_at_three, output=tmp_path, **{**OPTIONS, "base": {}})


def test_values_of_another_type_are_refused_before_the_results_can_no_longer_be_read(tmp_path):
    options = {**OPTIONS, "base": {}, "factory": _of_any_size, "inputs": torch.ones(3, 2), "output": tmp_path}
    hw.sweep({"size": [2, 3]}, **options)
    with pytest.raises(SweepError, match="'size' of type int64, and this one has string"):
        hw.sweep({"size": ["large"]}, **options)
    assert [row["size"] for row in hw.sweep({"size": [2, 3.5]}, **options).table().rows()] == [2.0, 3.0, 3.5]


def _of_any_size(size):
    return nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2))


def test_an_interrupted_sweep_without_a_folder_keeps_what_is_finished_and_names_it():
    options = {**OPTIONS, "base": {}, "factory": _interrupted_at_three}
    with pytest.warns(SweepWarning, match="what is finished is in ") as caught, pytest.raises(KeyboardInterrupt):
        hw.sweep({"depth": [1, 2, 3, 4]}, **options)
    folder = Path(str(caught[0].message).split("'")[1])
    try:
        assert [row["depth"] for row in hw.read_sweep(folder).table().rows()] == [1, 2]
    finally:
        shutil.rmtree(folder)


def _interrupted_at_three(depth):
    if depth == 3:
        raise KeyboardInterrupt
    return hw.Problem(nn.Sequential(*[nn.Linear(2, 2) for _ in range(depth + 1)]), torch.ones(3, 2))


def test_inputs_without_a_factory_and_a_base_beside_a_grid_are_refused():
    with pytest.raises(GridError, match="inputs are for the modules of a factory"):
        hw.sweep({"depth": [2]}, inputs=torch.ones(1, 2), **OPTIONS)
    with pytest.raises(GridError, match="a Grid has its base and its factory itself"):
        hw.sweep(Grid({"depth": [2]}), **OPTIONS)


def test_a_header_that_is_json_and_no_header_is_damaged_and_one_of_another_version_is_refused(tmp_path):
    hw.sweep({"depth": [2]}, output=tmp_path, **OPTIONS)
    (tmp_path / "sweep.json").write_text('{"a": 1}')
    with pytest.warns(SweepWarning, match=r"sweep\.json' is damaged; what the parts say"):
        assert len(hw.read_sweep(tmp_path).table()) == 1
    (tmp_path / "sweep.json").write_text('{"schema_version": 99}')
    with pytest.raises(SweepError, match="schema version 99, and this headwater reads 1"):
        hw.read_sweep(tmp_path)


def test_a_setting_that_does_not_exist_and_a_factory_in_threads_are_refused():
    from concurrent.futures import ThreadPoolExecutor

    with pytest.raises(GridError, match="a sweep has no setting 'seedz'"):
        hw.sweep(GRID, seedz=3, **OPTIONS)
    with ThreadPoolExecutor(1) as executor, pytest.raises(SweepError, match="threads share the random generators"):
        hw.sweep({"depth": [2]}, factory=failing, executor=executor, progress=False)
    with pytest.raises(GridError, match="'status' has the name of a column"):
        hw.sweep({"status": [1]}, factory=lambda status: status, executor="serial", progress=False)
