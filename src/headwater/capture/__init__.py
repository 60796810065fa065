"""Capture: observes a model's passes without touching them and makes recordings."""

from headwater.capture.cpu_moments import load_fused_moments as load_fused_moments
from headwater.capture.moments import UnmeasurableError as UnmeasurableError
from headwater.capture.moments import measure as measure
from headwater.capture.observe import observe as observe
from headwater.capture.problem import Problem as Problem
from headwater.capture.problem import ProblemError as ProblemError
from headwater.capture.recorder import Recorder as Recorder
from headwater.capture.recorder import RecorderError as RecorderError
from headwater.capture.recorder import record as record
