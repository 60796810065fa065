"""The random generators that a model may draw from: set, and compared. To be used inside of `preserved`."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


def reseeded(seed: int) -> list[bytes]:
    """Sets every generator (torch's on every device, numpy's, Python's) and returns the states they are in now.

    >>> reseeded(0) == reseeded(0), reseeded(0) == reseeded(1)
    (True, False)
    """
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed % 2**32)
    return random_states()


def random_states() -> list[bytes]:
    """The states: other ones after anybody has drawn a number.

    >>> before = reseeded(0)
    >>> before == random_states(), torch.rand(1).numel(), before == random_states()
    (True, 1, False)
    """
    numpys: Any = np.random.get_state(legacy=False)
    states = [
        torch.get_rng_state().numpy().tobytes(),
        numpys["state"]["key"].tobytes(),
        str(numpys["state"]["pos"]).encode(),
        repr(random.getstate()).encode(),
    ]
    if torch.cuda.is_initialized():
        states += [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return states
