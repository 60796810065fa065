"""Headwater: a gradient-flow profiler for PyTorch.

Names are imported on first use (PEP 562): `import headwater` and `headwater --help` do not import torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from headwater._version import __version__ as __version__

if TYPE_CHECKING:
    from headwater.capture import Problem as Problem
    from headwater.capture import ProblemError as ProblemError
    from headwater.capture import record as record
    from headwater.diagnosis import Diagnosis as Diagnosis
    from headwater.diagnosis import diagnose as diagnose
    from headwater.diagnosis import judge as judge
    from headwater.diagnosis import load as load
    from headwater.findings import Finding as Finding
    from headwater.findings import Severity as Severity
    from headwater.lab.compare import compare as compare
    from headwater.lab.comparison import Comparison as Comparison
    from headwater.lab.sweep import SweepResult as SweepResult
    from headwater.lab.sweep import read_sweep as read_sweep
    from headwater.lab.sweep import sweep as sweep
    from headwater.recording import Recording as Recording

_EXPORTS = {
    "Comparison": "headwater.lab.comparison",
    "Diagnosis": "headwater.diagnosis",
    "Finding": "headwater.findings",
    "Problem": "headwater.capture",
    "ProblemError": "headwater.capture",
    "Recording": "headwater.recording",
    "Severity": "headwater.findings",
    "SweepResult": "headwater.lab.sweep",
    "compare": "headwater.lab.compare",
    "diagnose": "headwater.diagnosis",
    "judge": "headwater.diagnosis",
    "load": "headwater.diagnosis",
    "read_sweep": "headwater.lab.sweep",
    "record": "headwater.capture",
    "sweep": "headwater.lab.sweep",
}


def __getattr__(name: str) -> object:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'headwater' has no attribute {name!r}; it exports {', '.join(sorted(_EXPORTS))}")
    value = getattr(import_module(_EXPORTS[name]), name)
    globals()[name] = value  # the next access finds it without coming here
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_EXPORTS})
