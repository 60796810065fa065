"""How often each detector names the right fault, and how often it raises a false alarm: `python -m benchmarks detectors`."""

from __future__ import annotations

from benchmarks.detectors.score import run as run
