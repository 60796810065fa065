"""Recordings on disk: what was saved comes back, and saving replaces whole files or nothing."""

from __future__ import annotations

import json
import os
import zipfile
from dataclasses import fields, replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from headwater.recording import (
    Context,
    RecordingBuilder,
    RecordingFileError,
    load,
    save,
)
from headwater.recording.header import _CONTEXT_CHECKS
from tests.recording.samples import sample
from tests.recording.strategies import recordings

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@shared_folder
@given(recordings())
def test_every_recording_comes_back_as_it_was(tmp_path, recording):
    save(recording, tmp_path / "any.hw")
    assert load(tmp_path / "any.hw") == recording


@pytest.mark.parametrize("loss", [None, 0.1, 5e-324, float("nan"), float("inf"), float("-inf"), -0.0])
def test_every_loss_comes_back_in_strict_json(path, loss):
    save(replace(sample(), context=Context(loss=loss)), path)
    assert str(load(path).context.loss) == str(loss)
    with zipfile.ZipFile(path) as archive:
        json.loads(archive.read("header.json"), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))


def test_the_same_recording_always_makes_the_same_bytes(tmp_path):
    save(sample(), tmp_path / "a.hw")
    save(sample(), tmp_path / "b.hw")
    save(load(tmp_path / "a.hw"), tmp_path / "c.hw")
    assert len({(tmp_path / name).read_bytes() for name in ("a.hw", "b.hw", "c.hw")}) == 1


def test_a_loaded_recording_cannot_be_changed(path):
    save(sample(), path)
    with pytest.raises(ValueError, match="read-only"):
        load(path).signal_table["sum"][0] = 0.0


def test_paths_may_be_strings_and_know_no_home_folder_magic(path):
    save(sample(), str(path))
    assert load(os.fspath(path)) == sample()


def test_every_field_of_the_context_is_stored():
    assert set(_CONTEXT_CHECKS) == {field.name for field in fields(Context)}


# Saving replaces whole files or nothing


def test_saving_leaves_nothing_else_in_the_folder(path):
    save(sample(), path)
    save(sample(), path)
    assert [entry.name for entry in path.parent.iterdir()] == ["run.hw"]


@pytest.mark.parametrize("interruption", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_full_disk_or_an_interrupt_leaves_the_old_file_whole(path, monkeypatch, interruption):
    save(sample(), path)
    before = path.read_bytes()

    def fail(_descriptor):
        raise interruption

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises((RecordingFileError, KeyboardInterrupt)) as caught:
        save(RecordingBuilder().build(), path)
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == ["run.hw"]
    if isinstance(interruption, OSError):
        assert str(caught.value) == f"cannot save a recording to '{path}': No space left on device"


def test_saving_into_a_folder_that_is_not_there_is_one_sentence(tmp_path):
    with pytest.raises(RecordingFileError, match=r"cannot save a recording to '.*nowhere/run\.hw': No such file"):
        save(sample(), tmp_path / "nowhere" / "run.hw")


def test_a_folder_or_a_device_is_not_replaced(tmp_path):
    for target in (tmp_path, Path(os.devnull)):
        with pytest.raises(RecordingFileError, match="not a regular file"):
            save(sample(), target)
    assert not Path(os.devnull).is_file()


def test_a_link_keeps_pointing_to_the_file(path):
    link = path.parent / "latest.hw"
    link.symlink_to(path)
    save(sample(), link)
    assert link.is_symlink()
    assert load(path) == sample()


def test_a_file_of_schema_1_still_says_what_it_said():
    # Made by save(sample(), ...) and never made again: people have such files. A changed column needs a new schema.
    assert load(Path(__file__).parent / "data" / "schema_1.hw") == without_what_schema_2_added(sample())


def test_a_file_of_schema_2_still_says_what_it_said():
    assert load(Path(__file__).parent / "data" / "schema_2.hw") == sample()


def without_what_schema_2_added(recording):
    return replace(
        recording,
        module_configs=("",) * len(recording.module_configs),
        series_table=recording.series_table[:0],
        series_values=recording.series_values[:0],
        operation_table=recording.operation_table[:0],
        edge_table=recording.edge_table[:0],
        line_table=recording.line_table[:0],
        made_by_table=recording.made_by_table[:0],
        context=replace(recording.context, optimizer=""),
    )


def test_a_file_of_schema_2_without_its_series_is_damaged(path):
    save(sample(), path)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist() if not name.startswith("series")}
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(RecordingFileError, match="series_table"):
        load(path)
