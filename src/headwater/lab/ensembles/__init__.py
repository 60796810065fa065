"""Ensembles: networks that differ by their seed alone, measured as one batched computation."""

from headwater.lab.ensembles.error import EnsembleError as EnsembleError
from headwater.lab.ensembles.measure import measure_ensemble as measure_ensemble
from headwater.lab.ensembles.measurements import EnsembleMeasurements as EnsembleMeasurements
