"""Recordings on disk: a zip of one JSON header and plain numpy arrays. No pickle, so a file cannot run code.

The layout, schema 2: `header.json` (format, schema version, names, shapes, exponent histograms, context) and one `.npy`
member, little-endian, for each array of a `Recording`. The same recording always makes the same bytes.
"""

from __future__ import annotations

import io
import os
import secrets
import struct
import zipfile
import zlib
from math import prod
from pathlib import Path
from stat import S_ISREG
from typing import Any

import numpy as np

from headwater.recording.consistency import inconsistency
from headwater.recording.header import DamagedHeaderError, decode_header, encode_header
from headwater.recording.recording import Recording
from headwater.recording.tables import (
    CALL_COLUMNS,
    EDGE_COLUMNS,
    LINE_COLUMNS,
    MADE_BY_COLUMNS,
    MODULE_COLUMNS,
    OPERATION_COLUMNS,
    PARAMETER_COLUMNS,
    SERIES_COLUMNS,
    SIGNAL_COLUMNS,
    UNIT_COLUMNS,
)

_HEADER = "header.json"
_ARRAYS = {
    "module_table": MODULE_COLUMNS,
    "call_table": CALL_COLUMNS,
    "signal_table": SIGNAL_COLUMNS,
    "parameter_table": PARAMETER_COLUMNS,
    "unit_table": UNIT_COLUMNS,
    "unit_minimum": np.dtype("f8"),
    "unit_maximum": np.dtype("f8"),
    "series_table": SERIES_COLUMNS,
    "series_values": np.dtype("f8"),
    "operation_table": OPERATION_COLUMNS,
    "edge_table": EDGE_COLUMNS,
    "line_table": LINE_COLUMNS,
    "made_by_table": MADE_BY_COLUMNS,
}
_SINCE_SCHEMA_2 = ("series_table", "series_values", "operation_table", "edge_table", "line_table", "made_by_table")
# Far above any recording (10,000 modules are some megabytes), far below what would exhaust a machine.
_MAX_UNPACKED_BYTES = 4 * 2**30
# What zipfile, zlib and numpy raise on bytes that are not what they should be.
_DAMAGE = (zlib.error, struct.error, EOFError, ValueError, KeyError, RuntimeError)


class RecordingFileError(ValueError):
    """A file cannot be read as a recording, or a recording cannot be written to it; the message says why."""


def save(recording: Recording, path: str | os.PathLike[str]) -> None:
    """Writes the recording to a file; a file that was there is replaced only when the new one is complete.

    Raises:
        RecordingFileError: the file cannot be written.

    >>> import tempfile
    >>> from headwater.recording import RecordingBuilder
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(RecordingBuilder().build(), f"{folder}/run.hw")
    ...     load(f"{folder}/run.hw")
    <Recording of a model: 0 modules, 0 calls, 0 signals>
    """
    # The target of a link is replaced, not the link; and never a device or a pipe such as /dev/stdout.
    target = Path(os.path.realpath(path))
    try:
        if target.exists() and not S_ISREG(target.stat().st_mode):
            raise RecordingFileError(f"cannot save a recording to '{path}': it is not a regular file")
        _replace(target, _packed(recording))
    except OSError as error:
        raise RecordingFileError(f"cannot save a recording to '{path}': {error.strerror or error}") from error


def load(path: str | os.PathLike[str]) -> Recording:
    """The recording that `save` wrote to the file, checked: no index in it points outside its tables.

    Raises:
        RecordingFileError: there is no such file, it is not a recording, it is truncated or damaged, or it was saved
            under another schema version.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            recording = _unpacked(archive, path)
    except RecordingFileError:
        raise
    except FileNotFoundError as error:
        raise RecordingFileError(f"there is no recording at '{path}'") from error
    except OSError as error:
        raise RecordingFileError(f"cannot read '{path}': {error.strerror or error}") from error
    except zipfile.BadZipFile as error:
        raise RecordingFileError(f"'{path}' is not a recording, or a truncated or damaged one: {error}") from error
    except _DAMAGE as error:
        raise RecordingFileError(f"'{path}' is a damaged recording: {error}") from error
    problem = inconsistency(recording)
    if problem is not None:
        raise RecordingFileError(f"'{path}' is a damaged recording: {problem}")
    return recording


def _packed(recording: Recording) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        _add_member(archive, _HEADER, encode_header(recording))
        for name, dtype in _ARRAYS.items():
            member = io.BytesIO()
            array = np.ascontiguousarray(getattr(recording, name), dtype=dtype.newbyteorder("<"))
            np.lib.format.write_array(member, array, version=(1, 0), allow_pickle=False)
            _add_member(archive, f"{name}.npy", member.getvalue())
    return buffer.getvalue()


def _add_member(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    # A ZipInfo made by hand carries no clock time.
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)


def _replace(target: Path, content: bytes) -> None:
    part = target.parent / f".{secrets.token_hex(8)}.hw-part"
    try:
        with part.open("xb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)


def _unpacked(archive: zipfile.ZipFile, path: str | os.PathLike[str]) -> Recording:
    if _HEADER not in archive.namelist():
        raise RecordingFileError(f"'{path}' is a zip file but not a recording: it has no {_HEADER}")
    unpacked_bytes = sum(member.file_size for member in archive.infolist())
    if unpacked_bytes > _MAX_UNPACKED_BYTES:
        raise RecordingFileError(
            f"'{path}' would unpack to {unpacked_bytes} bytes; no recording is larger than {_MAX_UNPACKED_BYTES}"
        )
    try:
        version, header = decode_header(_member(archive, _HEADER))
    except DamagedHeaderError as error:
        raise RecordingFileError(f"'{path}' {error}") from error
    arrays: dict[str, Any] = {
        name: np.empty(0, dtype)
        if version == 1 and name in _SINCE_SCHEMA_2
        else _array(_member(archive, f"{name}.npy"), name, dtype)
        for name, dtype in _ARRAYS.items()
    }
    return Recording(**header, **arrays)


def _member(archive: zipfile.ZipFile, name: str) -> bytes:
    if archive.getinfo(name).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"member {name} is compressed in a way that no recording is")
    return archive.read(name)


def _array(content: bytes, name: str, dtype: np.dtype) -> np.ndarray:
    """The array of one member. Not `np.load`: that allocates what a header claims before it finds the bytes missing."""
    file = io.BytesIO(content)
    try:
        np.lib.format.read_magic(file)
        shape, _, stored = np.lib.format.read_array_header_1_0(file)
    except Exception as error:  # numpy lets through what Python's tokenizer and evaluator raise
        raise ValueError(f"member {name} is not a numpy array") from error
    stored_dtype = dtype.newbyteorder("<")
    if stored != stored_dtype or len(shape) != 1:
        raise ValueError(f"member {name} has the wrong columns")
    rest = content[file.tell() :]
    if len(rest) != prod(shape) * stored_dtype.itemsize:
        raise ValueError(f"member {name} has the wrong length")
    return np.frombuffer(rest, dtype=stored_dtype).astype(dtype, copy=False)
