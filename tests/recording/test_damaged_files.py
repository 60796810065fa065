"""A file that is no recording, a damaged one or one of another version gets one clear sentence."""

from __future__ import annotations

import io
import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from headwater.recording import (
    RecordingFileError,
    load,
    save,
)
from headwater.recording.header import encode_header
from headwater.recording.tables import OLDEST_READABLE_SCHEMA, SCHEMA_VERSION
from tests.recording.samples import sample

shared_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal(path: Path) -> str:
    """The sentence that loading the file is refused with."""
    with pytest.raises(RecordingFileError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    return message


def rewritten(path: Path, **members: bytes | None) -> None:
    """Saves the sample with some members replaced, or left out."""
    save(sample(), path)
    with zipfile.ZipFile(path) as archive:
        contents = {name: archive.read(name) for name in archive.namelist()}
    for member, content in members.items():
        name = next(name for name in contents if name.startswith(f"{member}."))
        contents[name] = content
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in contents.items():
            if content is not None:
                archive.writestr(name, content)


def header_with(**changes: object) -> bytes:
    """The sample's header with some fields changed."""
    header = json.loads(encode_header(sample()))
    context = changes.pop("context", None)
    header.update(changes)
    if isinstance(context, dict):
        header["context"].update(context)
    elif context is not None:
        header["context"] = context
    return json.dumps(header).encode()


def npy(array: np.ndarray) -> bytes:
    content = io.BytesIO()
    np.save(content, array, allow_pickle=array.dtype.hasobject)
    return content.getvalue()


def test_a_missing_file_is_said_to_be_missing(path):
    assert refusal(path) == f"there is no recording at '{path}'"


def test_a_folder_is_not_a_recording(tmp_path):
    assert "Is a directory" in refusal(tmp_path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04", b"\x80\x04N.", b"\0" * 10_000])
def test_other_content_is_not_a_recording(path, content):
    path.write_bytes(content)
    assert "is not a recording" in refusal(path)


def test_a_saved_model_is_a_zip_but_not_a_recording(path):
    torch.save({"weight": torch.ones(2)}, path)
    assert "is a zip file but not a recording: it has no header.json" in refusal(path)


def test_another_programs_header_is_not_ours(path):
    rewritten(path, header=b'{"format": "har", "version": 1}')
    assert "is not a recording: its header does not say format 'headwater-recording'" in refusal(path)


def test_a_file_cut_short_anywhere_is_refused(path):
    save(sample(), path)
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)


def test_a_damaged_byte_anywhere_is_refused_or_changes_nothing(path):
    save(sample(), path)
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x55
        path.write_bytes(damaged)
        try:
            recording = load(path)
        except RecordingFileError:
            continue
        assert recording == sample()  # a byte nobody reads: a date, a flag of another system


@pytest.mark.parametrize("compression", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_another_compression_is_refused(path, compression):
    with zipfile.ZipFile(path, "w", compression) as archive:
        archive.writestr("header.json", encode_header(sample()))
    assert "compressed in a way that no recording is" in refusal(path)


def test_a_file_that_would_unpack_to_more_than_fits_is_refused_unread(path):
    rewritten(path)
    content = bytearray(path.read_bytes())
    entry = content.index(b"PK\x01\x02")  # the first entry of the zip's directory: 24 bytes in, the unpacked size
    content[entry + 24 : entry + 28] = (0xFFFFFFFE).to_bytes(4, "little")
    second = content.index(b"PK\x01\x02", entry + 4)
    content[second + 24 : second + 28] = (0xFFFFFFFE).to_bytes(4, "little")
    path.write_bytes(content)
    assert "no recording is larger than" in refusal(path)


# Other versions


def test_a_newer_schema_asks_for_an_upgrade(path):
    rewritten(path, header=header_with(schema_version=SCHEMA_VERSION + 1))
    assert f"schema {SCHEMA_VERSION + 1}" in refusal(path)
    assert "upgrade headwater" in refusal(path)


def test_an_older_schema_asks_to_record_again(path):
    rewritten(path, header=header_with(schema_version=OLDEST_READABLE_SCHEMA - 1))
    assert "record again" in refusal(path)


# Members that are there but wrong

WRONG_HEADERS = [
    b"",
    b"\xff\xfe",
    b"[]",
    b"null",
    b"NaN",
    b'{"format": NaN}',
    b"[" * 100_000,
    b"1" * 10_000,
]
WRONG_FIELDS = [
    {"schema_version": "1"},
    {"schema_version": True},
    {"module_names": "relu"},
    {"module_names": ["", 1]},
    {"module_names": [""]},
    {"module_names": ["", ""]},
    {"module_names": ["", "\ud800"]},
    {"strings": []},
    {"strings": None},
    {"shapes": [[1.5]]},
    {"shapes": [[-1]]},
    {"shapes": []},
    {"shapes": [[10**30], [1], [1]]},
    {"exponents": []},
    {"exponents": [[0, [-1]]]},
    {"exponents": [[10**9, [1]]]},
    {"exponents": [[0, [1] * 100_000]]},
    {"exponents": [[0]]},
    {"context": []},
    {"context": {"loss": "a lot"}},
    {"context": {"loss": [1]}},
    {"context": {"step": 1.5}},
    {"context": {"seed": 10**30}},
    {"context": {"devices": "cpu"}},
    {"context": {"versions": {"torch": 2}}},
    {"context": {"notes": [None]}},
    {"context": {"backward_scale_exponent": None}},
    {"context": {"cotangent": 3}},
]


@pytest.mark.parametrize("content", WRONG_HEADERS, ids=lambda content: content[:12])
def test_a_header_that_is_not_an_object_in_json_is_refused(path, content):
    rewritten(path, header=content)
    assert "recording" in refusal(path)


@pytest.mark.parametrize("changes", WRONG_FIELDS, ids=lambda changes: str(changes)[:50])
def test_a_field_that_is_not_what_it_should_be_is_refused(path, changes):
    rewritten(path, header=header_with(**changes))
    assert "is a damaged recording" in refusal(path)


@pytest.mark.parametrize(
    "name", ["module_names", "module_configs", "strings", "shapes", "exponents", "context", "schema_version"]
)
def test_a_missing_field_is_named(path, name):
    header = json.loads(encode_header(sample()))
    del header[name]
    rewritten(path, header=json.dumps(header).encode())
    assert f"its header has no {name}" in refusal(path)


@pytest.mark.parametrize("member", ["module_table", "call_table", "signal_table", "unit_minimum", "parameter_table"])
def test_a_missing_member_is_refused(path, member):
    rewritten(path, **{member: None})
    assert member in refusal(path)


def with_npy_header(text: str) -> bytes:
    header = text.encode().ljust(118 - 10) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"hello",
        npy(np.zeros(2)),
        npy(np.zeros((2, 2), dtype=sample().module_table.dtype)),
        npy(np.array([{"a": 1}, None])),
        npy(sample().module_table) + b"more",
        npy(sample().module_table)[:-1],
        with_npy_header("{'descr': [('type', '<i4')], 'fortran_order': False, 'shape': (2,)"),
        with_npy_header("__import__('os').system('true')"),
        with_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (10**12,), }"),
        with_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (-1,), }"),
        with_npy_header("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,), }"),
        with_npy_header("(" * 90),
    ],
    ids=range(13),
)
def test_a_table_that_is_no_table_is_refused_and_never_unpickled(path, content):
    rewritten(path, module_table=content)
    assert "member module_table" in refusal(path)


def test_an_array_that_claims_to_be_huge_is_refused_before_memory_is_asked_for(path):
    rewritten(
        path, unit_minimum=with_npy_header("{'descr': '<f8', 'fortran_order': False, 'shape': (1000000000000,), }")
    )
    assert "member unit_minimum has the wrong length" in refusal(path)


WRONG_CELLS = [
    ("module_table", "type", 99),
    ("module_table", "type", -1),
    ("module_table", "parent", 1),
    ("module_table", "parent", -2),
    ("call_table", "module", 2),
    ("call_table", "parent", 1),
    ("call_table", "call", 7),
    ("signal_table", "module", -1),
    ("signal_table", "module", 0),
    ("signal_table", "depth", 2),
    ("signal_table", "depth", -2),
    ("signal_table", "kind", 7),
    ("signal_table", "kind", -1),
    ("signal_table", "item", 99),
    ("signal_table", "shape", 99),
    ("signal_table", "dtype", -1),
    ("signal_table", "exponents", 1),
    ("signal_table", "exponents", -2),
    ("signal_table", "numel", -1),
    ("signal_table", "numel", 0),
    ("signal_table", "nan_count", 3),
    ("signal_table", "zero_count", 2**63 - 1),
    ("signal_table", "sum", float("nan")),
    ("signal_table", "sum_abs", -1.0),
    ("signal_table", "sum_squares", float("nan")),
    ("signal_table", "sum_squares", -1e-300),
    ("signal_table", "max_abs", -1.0),
    ("parameter_table", "module", 2),
    ("parameter_table", "name", 99),
    ("parameter_table", "shape", -1),
    ("parameter_table", "dtype", 99),
    ("unit_table", "depth", 2),
    ("unit_table", "num_units", 3),
    ("unit_table", "num_units", -1),
    ("unit_table", "num_units", 2**63 - 1),
    ("unit_table", "num_samples", -1),
    ("unit_table", "first_unit", 1),
    ("unit_table", "first_unit", -1),
    ("line_table", "file", 99),
    ("line_table", "code", -1),
    ("operation_table", "name", 99),
    ("operation_table", "line", 2),
    ("operation_table", "line", -2),
    ("operation_table", "depth", 2),
    ("operation_table", "depth", -2),
    ("edge_table", "operation", 3),
    ("edge_table", "operation", 0),
    ("edge_table", "producer", -1),
    ("edge_table", "producer", 1),
    ("made_by_table", "operation", 3),
    ("made_by_table", "operation", -1),
    ("series_table", "name", 99),
    ("series_table", "module", 2),
    ("series_table", "depth", 2),
    ("series_table", "depth", -2),
    ("series_table", "item", -1),
    ("series_table", "combine", 3),
    ("series_table", "length", 3),
    ("series_table", "length", -1),
    ("series_table", "length", 2**63 - 1),
    ("series_table", "first_value", 1),
    ("series_table", "first_value", -1),
]


@pytest.mark.parametrize(("table", "column", "value"), WRONG_CELLS)
def test_a_cell_that_points_outside_its_tables_is_refused(path, table, column, value):
    array = getattr(sample(), table).copy()
    array[column][-1 if table in ("module_table", "call_table") else 0] = value
    if (column, value) == ("numel", 0):
        array["nan_count"][0] = 1
    rewritten(path, **{table: npy(array)})
    assert "is a damaged recording" in refusal(path)


def test_a_unit_table_without_its_units_is_refused(path):
    rewritten(path, unit_maximum=npy(np.zeros(1)))
    assert "not as many largest as smallest units" in refusal(path)


@shared_folder
@given(
    st.sampled_from(
        [
            "module_table",
            "call_table",
            "signal_table",
            "parameter_table",
            "unit_table",
            "series_table",
            "operation_table",
            "edge_table",
            "line_table",
        ]
    ),
    st.integers(0, 2**32),
)
@example("signal_table", 0)
def test_random_tables_are_refused_or_can_be_read_through(tmp_path, table, seed):
    noise = random.Random(seed)
    array = getattr(sample(), table).copy()
    for _ in range(noise.randint(1, 3)):
        column = noise.choice(array.dtype.names)
        array[column][noise.randrange(len(array))] = noise.choice([-2, -1, 0, 1, 2, 3, 2**31 - 1])
    rewritten(tmp_path / "noise.hw", **{table: npy(array)})
    try:
        recording = load(tmp_path / "noise.hw")
    except RecordingFileError:
        return
    assert len(list(recording)) == len(recording.select())
    assert len(recording.modules) == len(recording.module_names)
    assert [call.depth for call in recording.calls] == list(range(len(recording.calls)))
    assert all(len(units.minimum) == len(units.maximum) for units in recording.units)
    assert all(len(series.values) == len(recording.series(series.name)[0].values) for series in recording.all_series)
    assert len(recording.operations) == len(recording.operation_table)
    assert all(edge.producer < edge.operation for edge in recording.operation_edges)
    assert all(not signal.stats.norm < 0 and signal.parameter is not None for signal in recording)
    assert len(recording.parameters) == 1
