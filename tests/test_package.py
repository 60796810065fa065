"""What `import headwater` offers, and what it does not import."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import headwater

PUBLIC_NAMES = {
    "Comparison",
    "Diagnosis",
    "Finding",
    "Problem",
    "ProblemError",
    "Recording",
    "Severity",
    "SweepResult",
    "__version__",
    "compare",
    "diagnose",
    "judge",
    "load",
    "read_sweep",
    "record",
    "sweep",
}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter has imported after one statement."""
    program = f"{statement}; import sys; print(*sys.modules)"
    output = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return set(output.split())


def test_the_public_names_are_listed_and_can_be_had():
    assert set(dir(headwater)) >= PUBLIC_NAMES
    for name in PUBLIC_NAMES:
        assert getattr(headwater, name) is getattr(headwater, name)


def test_a_name_that_is_not_there_is_an_attribute_error_that_lists_those_that_are():
    with pytest.raises(AttributeError, match=r"has no attribute 'diagnoze'; it exports .*diagnose"):
        _ = headwater.diagnoze
    assert not hasattr(headwater, "diagnoze")


@pytest.mark.parametrize("statement", ["import headwater; headwater.__version__", "from headwater import Recording"])
def test_importing_headwater_or_its_data_side_does_not_import_torch(statement):
    assert "torch" not in modules_after(statement)


def test_importing_headwater_alone_imports_nothing_heavy():
    assert not {"numpy", "rich", "matplotlib", "headwater.recording"} & modules_after("import headwater")


def test_the_lazy_table_names_what_type_checkers_are_told():
    source = Path(headwater.__file__).read_text(encoding="utf-8")
    told = {line.split(" as ")[1].strip() for line in source.splitlines() if line.startswith("    from headwater.")}
    assert told == set(headwater._EXPORTS) == PUBLIC_NAMES - {"__version__"}
