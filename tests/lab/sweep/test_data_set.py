"""What is written survives: cut journals, damaged parts, full disks, two processes at once."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from headwater.lab.sweep import SweepError
from headwater.lab.sweep.columns import columns_of
from headwater.lab.sweep.data_set import JOURNAL, opened
from headwater.lab.sweep.journal import Journal, read_journal
from headwater.lab.sweep.parts import part_paths, read_part
from headwater.lab.sweep.settings import Settings, provenance
from headwater.lab.sweep.work import rows_of
from tests.lab.sweep.cells import grid_of, measure_number

GRID = grid_of(20)
ROWS = [{**row, "seconds": 0.0} for row in rows_of(measure_number, list(GRID.cells()))]
COLUMNS = columns_of(GRID)
HEADER = {**provenance(GRID, Settings()), "columns": COLUMNS}


def open_set(folder, header=HEADER, *, resume=True):
    return opened(folder, header, COLUMNS, resume=resume)


def keys_in(folder):
    with open_set(folder) as data_set:
        return set(data_set.finished(retry_failed=True).tolist()), data_set.damaged


def filled(folder, rows=ROWS):
    with open_set(folder) as data_set:
        for row in rows:
            data_set.append(row)
    return folder


KEYS = {cell.key for cell in GRID.cells()}


def test_a_part_tells_its_schema_version_and_what_its_rows_were_measured_with(tmp_path):
    (part,) = part_paths(filled(tmp_path / "out"))
    header = json.loads(pq.read_schema(part).metadata[b"headwater"])
    assert header["schema_version"] == 1
    assert set(header["versions"]) == {"headwater", "python", "torch", "numpy"}
    assert header["settings"]["seeds"] == 32
    assert read_part(part, ["specification"]).to_pylist()[3] == {"specification": ROWS[3]["specification"]}


def test_rows_that_never_reached_a_part_are_in_the_journal_and_are_found_again(tmp_path):
    folder = tmp_path / "out"
    with open_set(folder) as data_set:
        for row in ROWS[:7]:
            data_set.append(row)
        journal = (folder / JOURNAL).read_bytes()  # as a killed process would leave it
    for part in part_paths(folder):
        part.unlink()
    (folder / JOURNAL).write_bytes(journal)
    assert keys_in(folder) == ({cell.key for cell in list(GRID.cells())[:7]}, [])


@given(cut=st.integers(0, 4000))
def test_a_journal_that_was_cut_anywhere_gives_every_whole_line(tmp_path_factory, cut):
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    for row in ROWS[:5]:
        journal.append(row)
    journal.close()
    text = path.read_bytes()[:cut]
    path.write_bytes(text)
    assert read_journal(path) == (ROWS[: text.count(b"\n")], 0)


@given(position=st.integers(0, 10**6), flipped=st.integers(1, 255))
def test_a_journal_with_one_wrong_byte_loses_at_most_two_lines_and_tells(tmp_path_factory, position, flipped):
    path = tmp_path_factory.mktemp("journal") / "journal"
    journal = Journal(path)
    for row in ROWS[:5]:
        journal.append(row)
    journal.close()
    text = bytearray(path.read_bytes())
    text[position % len(text)] ^= flipped
    path.write_bytes(bytes(text))
    rows, num_damaged = read_journal(path)
    assert all(row in ROWS for row in rows)
    assert len(rows) >= 3
    assert num_damaged >= 1 or len(rows) == 4  # the last newline: that line was never finished


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "text"])
def test_a_damaged_part_is_named_and_set_aside_and_its_cells_count_as_not_finished(tmp_path, damage):
    folder = filled(tmp_path / "out", ROWS[:10])
    filled(folder, ROWS[10:])
    first, second = part_paths(folder)
    whole = bytearray(first.read_bytes())
    if damage == "flipped":
        whole[len(whole) // 8] ^= 0xFF  # in a page of data: only its checksum tells
    first.write_bytes({"cut": whole[:-20], "flipped": whole, "empty": b"", "text": b"PAR1 not really"}[damage])
    keys, sentences = keys_in(folder)
    assert keys == {cell.key for cell in list(GRID.cells())[10:]}
    assert len(sentences) == 1
    assert f"'{first}' is damaged or no Parquet file" in sentences[0]
    assert part_paths(folder) == [second]
    assert first.with_suffix(".damaged").exists()
    filled(folder, ROWS[:10])  # does not take the number of the damaged one
    assert keys_in(folder) == (KEYS, [])
    assert not first.exists()


def test_a_damaged_header_is_named_and_the_parts_say_what_it_said(tmp_path):
    folder = filled(tmp_path / "out")
    (folder / "sweep.json").write_text('{"schema_version": 1, "settings"')
    keys, sentences = keys_in(folder)
    assert keys == KEYS
    assert "sweep.json' is damaged" in sentences[0]
    other = {**HEADER, "settings": {**HEADER["settings"], "batch": 7}}
    (folder / "sweep.json").write_text("{")
    with pytest.raises(SweepError, match="holds a sweep with batch = 32, and this one has 7"), open_set(folder, other):
        pass


def test_failed_cells_count_as_finished_unless_they_shall_run_again(tmp_path):
    failed = {**ROWS[0], "status": "failed", "error": "ValueError: no"}
    folder = filled(tmp_path / "out", [failed, *ROWS[1:]])
    with open_set(folder) as data_set:
        assert set(data_set.finished(retry_failed=False).tolist()) == KEYS
        assert set(data_set.finished(retry_failed=True).tolist()) == KEYS - {next(GRID.cells()).key}


def test_a_folder_with_another_sweep_or_other_files_is_refused(tmp_path):
    folder = filled(tmp_path / "out")
    other = {**HEADER, "settings": {**HEADER["settings"], "seeds": 64}}
    with pytest.raises(SweepError, match="holds a sweep with seeds = 32, and this one has 64"), open_set(folder, other):
        pass
    with pytest.raises(SweepError, match="resume it, or name another folder"), open_set(folder, resume=False):
        pass
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").touch()
    with pytest.raises(SweepError, match=r"holds other files \('thesis.tex'\)"), open_set(tmp_path / "thesis"):
        pass
    assert keys_in(folder)[0] == KEYS


def test_a_second_process_is_refused_while_one_writes(tmp_path):
    with (
        open_set(tmp_path / "out"),
        pytest.raises(SweepError, match="another process writes its sweep"),
        open_set(tmp_path / "out"),
    ):
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(SweepError, match=r"cannot write into '.*file/out': Not a directory"),
        open_set(tmp_path / "file" / "out"),
    ):
        pass


FULL_DISK = """
import resource, signal, sys
from pathlib import Path
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from headwater.lab.sweep import SweepError
from tests.lab.sweep.test_data_set import ROWS, open_set
try:
    with open_set(Path(sys.argv[1])) as data_set:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2500, 2500))
        for row in ROWS:
            data_set.append(row)
except SweepError as error:
    print(error)
"""


def test_a_full_disk_is_one_sentence_and_nothing_that_was_reported_is_lost(tmp_path):
    folder = tmp_path / "out"
    run = subprocess.run([sys.executable, "-c", FULL_DISK, folder], capture_output=True, text=True, check=True)
    assert "cannot write into" in run.stdout
    assert "what is finished is kept there" in run.stdout
    rows, num_damaged = read_journal(folder / JOURNAL)
    assert rows == ROWS[: len(rows)]
    assert len(rows) > 2
    assert num_damaged == 0
    assert filled(folder, ROWS[len(rows) :])
    assert keys_in(folder) == (KEYS, [])


def test_a_disk_that_is_full_from_the_start_leaves_nothing_that_is_taken_for_other_files(tmp_path, monkeypatch):
    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "replace", full)
        with pytest.raises(SweepError, match="No space left on device"):
            filled(tmp_path, ROWS)
    assert filled(tmp_path, ROWS)
