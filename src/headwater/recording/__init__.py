"""Recordings: what was measured, as plain data. No torch in here."""

from headwater.recording.builder import RecordingBuilder as RecordingBuilder
from headwater.recording.context import Context as Context
from headwater.recording.exponent_histogram import ExponentHistogram as ExponentHistogram
from headwater.recording.extension import NonFiniteOperation as NonFiniteOperation
from headwater.recording.extension import Update as Update
from headwater.recording.extension import extended as extended
from headwater.recording.merging import merge as merge
from headwater.recording.narrow_places import leading_to as leading_to
from headwater.recording.narrow_places import narrow_places as narrow_places
from headwater.recording.recording import Recording as Recording
from headwater.recording.signal import Signal as Signal
from headwater.recording.signal import SignalKind as SignalKind
from headwater.recording.storage import RecordingFileError as RecordingFileError
from headwater.recording.storage import load as load
from headwater.recording.storage import save as save
from headwater.recording.tables import Call as Call
from headwater.recording.tables import Combine as Combine
from headwater.recording.tables import ModuleInfo as ModuleInfo
from headwater.recording.tables import Operation as Operation
from headwater.recording.tables import OperationEdge as OperationEdge
from headwater.recording.tables import ParameterInfo as ParameterInfo
from headwater.recording.tables import Series as Series
from headwater.recording.tables import SourceLine as SourceLine
from headwater.recording.tables import UnitExtremes as UnitExtremes
from headwater.recording.tensor_stats import TensorStats as TensorStats
from headwater.recording.tensor_stats import merged_stats as merged_stats
