"""The slow way: the whole matrix by torch.autograd.functional in float64, one sample at a time."""

from __future__ import annotations

import numpy as np
import torch


def dense_jacobians(function, batch):
    """One matrix for each sample, shape (samples, outputs, inputs)."""
    return np.stack([_matrix(function, batch[place : place + 1]) for place in range(len(batch))])


def whole_jacobian(function, batch):
    return _matrix(function, batch)


def _matrix(function, inputs):
    # The copy is no leaf: it may be changed in place.
    found = torch.autograd.functional.jacobian(lambda x: function(x.clone()), inputs)
    return found.reshape(-1, inputs.numel()).numpy()


def exact_singular_values(matrices):
    return np.linalg.svd(matrices, compute_uv=False)
