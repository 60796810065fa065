"""Signal and noise of the weight gradients, from the gradients of a batch's slices."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from headwater.recording import Recording

_SUMS = "gradient_noise_sums"


@dataclass(frozen=True, slots=True)
class GradientNoise:
    """Of one parameter, or of all together.

    Args:
        module: path of the module that owns it; "" is the model itself.
        parameter: its own name; "" for all parameters together.
        num_samples: in the batch.
        num_slices: whose gradients were compared.
        signal: norm(mu)², of the expected gradient of one sample: an unbiased estimate, which chance can make negative.
        noise: tr(Sigma), the variance of one sample's gradient, summed over its entries.
    """

    module: str
    parameter: str
    num_samples: int
    num_slices: int
    signal: float
    noise: float

    @property
    def signal_to_noise(self) -> float:
        """Of the batch's gradient: energy of what all samples have in common over energy of the rest, B norm(mu)² / tr(Sigma).

        nan where there is neither, inf without noise.

        >>> GradientNoise("0", "weight", 64, 16, 0.5, 16.0).signal_to_noise
        2.0
        """
        if self.noise > 0.0:
            return self.num_samples * self.signal / self.noise
        return math.inf if self.signal > 0.0 else math.nan

    @property
    def noise_scale_samples(self) -> float:
        """tr(Sigma) / norm(mu)²: the batch size at which signal and noise are equal (McCandlish et al. 2018, arXiv 1812.06162, section 2.2).

        inf where no signal was found.

        >>> GradientNoise("0", "weight", 64, 16, 0.5, 16.0).noise_scale_samples
        32.0
        """
        return self.noise / self.signal if self.signal > 0.0 else math.inf


def gradient_noise(recording: Recording) -> tuple[GradientNoise, ...]:
    """One entry for each parameter whose gradients were compared; empty where none were.

    With n slices of b samples and G_k the sum of the samples' gradients of slice k: norm(mu)² = sum_{k != l} G_k . G_l / ((n² - n) b²),
    and tr(Sigma) = (sum_k norm(G_k)² - n b² norm(mu)²) / (n b). Several recordings count as one (McCandlish et al. 2018, arXiv 1812.06162,
    appendix A.1). It is the norms' squares that are averaged, never the norms.

    >>> from headwater.recording import RecordingBuilder
    >>> gradient_noise(RecordingBuilder().build())
    ()
    """
    return tuple(_estimated(one.module, one.item, one.values) for one in recording.series(_SUMS))


def total_noise(parts: Iterable[GradientNoise]) -> GradientNoise | None:
    """Signal and noise of all parameters together; None of nothing.

    >>> parts = [GradientNoise("0", "weight", 64, 16, 0.5, 16.0), GradientNoise("0", "bias", 64, 16, -0.1, 4.0)]
    >>> total_noise(parts)
    GradientNoise(module='', parameter='', num_samples=64, num_slices=16, signal=0.4, noise=20.0)
    """
    parts = list(parts)
    if not parts:
        return None
    signal, noise = (math.fsum(values) for values in zip(*((part.signal, part.noise) for part in parts), strict=True))
    return GradientNoise("", "", parts[0].num_samples, parts[0].num_slices, signal, noise)


def _estimated(module: str, item: str, values: np.ndarray) -> GradientNoise:
    num_slices, num_samples, squared_lengths, own, between, pairs = (float(value) for value in values)
    signal = between / pairs
    noise = max((own - squared_lengths * signal) / num_samples, 0.0)
    return GradientNoise(module, item, int(num_samples), int(num_slices), signal, noise)
