"""Networks whose values leave float32's range on their way, which are measured again in float64."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from headwater.lab.ensembles.measurements import EnsembleMeasurements, Floats

# An RMS or norm below this is made of entries that come near float32's smallest normal value, 2**-126. What is zero exactly has another
# cause: a layer does not take a signal from here to there.
_SMALL = 2.0**-100


def leaves_float32(measurements: EnsembleMeasurements, *, is_gradient_exact: bool) -> npt.NDArray[np.bool_]:
    """Which networks have values near the ends of float32, or beyond, (S,).

    Args:
        measurements: of networks that ran in float32.
        is_gradient_exact: whether the gradient cannot have left float32, since its exponent was kept apart.
    """
    is_lost = _is_away(measurements.activation_rms)
    if not is_gradient_exact:
        gradient_norm = 10.0**measurements.gain_decades * measurements.cotangent_norm[:, None]
        is_lost |= _is_away(gradient_norm) | _is_away(measurements.weight_gradient_norm)
    return np.any(is_lost, axis=1)


def with_rows(
    measurements: EnsembleMeasurements, rows: npt.NDArray[np.bool_], others: EnsembleMeasurements
) -> EnsembleMeasurements:
    """The measurements with these networks' rows from others.

    >>> zeros, ones = ((("0",), *[np.full((2, 1), x)] * 4, *[np.full(2, x)] * 3) for x in (0.0, 1.0))
    >>> rows = np.array([False, True])
    >>> part = EnsembleMeasurements(("0",), *(column[rows] for column in ones[1:]))
    >>> with_rows(EnsembleMeasurements(*zeros), rows, part).loss
    array([0., 1.])
    """
    columns = []
    for column, other in zip(measurements[1:], others[1:], strict=True):
        replaced = column.copy()
        replaced[rows] = other
        columns.append(replaced)
    return EnsembleMeasurements(measurements.layers, *columns)


def _is_away(sizes: Floats) -> npt.NDArray[np.bool_]:
    return ~np.isfinite(sizes) | ((sizes > 0.0) & (sizes < _SMALL))
