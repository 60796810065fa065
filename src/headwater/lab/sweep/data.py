"""Data for the networks of a sweep, made where they are needed and the same everywhere."""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from headwater.lab.sweep.grid import hash_of
from headwater.networks import NetworkSpec
from headwater.networks.families import input_shape

NUM_SAMPLES = 1024  # to train on


class Samples(NamedTuple):
    """Inputs, (samples, ...), and classes, (samples,)."""

    inputs: Tensor
    classes: Tensor


def samples_for(spec: NetworkSpec, name: str, num_samples: int = NUM_SAMPLES) -> Samples:
    """Data that fit a network.

    Args:
        spec: of the network.
        name: "gaussian": inputs N(0, 1), whose class is the largest of as many random linear functions as the network has
            outputs; "digits": scikit-learn's handwritten digits, each pixel with mean 0 and variance 1.
        num_samples: at most; there are 1,797 digits.

    Raises:
        ValueError: the data do not fit the network, or scikit-learn is not installed.

    >>> [tuple(part.shape) for part in samples_for(NetworkSpec(), "gaussian", 8)]
    [(8, 16), (8,)]
    """
    if name == "digits":
        return _digits_for(spec, num_samples)
    return _gaussian(input_shape(spec), spec.num_outputs, num_samples)


@functools.lru_cache(maxsize=8)
def _gaussian(shape: tuple[int, ...], num_classes: int, num_samples: int) -> Samples:
    generator = torch.Generator().manual_seed(hash_of("gaussian", *shape) >> 16)
    inputs = torch.randn(num_samples, *shape, generator=generator)
    scores = inputs.flatten(1) @ torch.randn(inputs[0].numel(), num_classes, generator=generator)
    return Samples(inputs, scores.argmax(1))


def _digits_for(spec: NetworkSpec, num_samples: int) -> Samples:
    if spec.family != "mlp" or (spec.num_inputs, spec.num_outputs) != (64, 10):
        raise ValueError(
            "the digits have 64 pixels and 10 classes, and are for mlps: expected num_inputs = 64 and num_outputs = 10, got "
            f"{spec.family} with {spec.num_inputs} and {spec.num_outputs}"
        )
    inputs, classes = _digits()
    return Samples(inputs[:num_samples], classes[:num_samples])


@functools.lru_cache(maxsize=1)
def _digits() -> Samples:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ValueError(
            "the digits come with scikit-learn, which is not installed: pip install scikit-learn"
        ) from None
    images, classes = (torch.tensor(part) for part in load_digits(return_X_y=True))
    order = torch.randperm(len(classes), generator=torch.Generator().manual_seed(0))
    images = images[order].float()
    deviation = images.std(0)
    return Samples((images - images.mean(0)) / deviation.where(deviation > 0, torch.ones(())), classes[order])
