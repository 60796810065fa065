"""Healthy networks during a training that reaches its ceiling: after 0, 10, 50 and 100 % of it."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.detectors.case import Case, Subject
from tests.rules import broken_networks as broken
from tests.rules import healthy_networks as healthy

_NUM_STEPS = 200
_FRACTIONS = (0.0, 0.1, 0.5, 1.0)
_CEILING = 0.98  # of the training samples, that the run must reach to count as healthy


def _rectified() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))


def _deep_tanh() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 64), nn.Tanh(), *broken.plain(nn.Tanh, 8, 64, nn.init.xavier_normal_))


def _residual() -> nn.Module:
    model = healthy.residual(4, 64)
    return nn.Sequential(*list(model)[:-1], nn.Linear(64, 10))


def _batch_normalised() -> nn.Module:
    return nn.Sequential(*list(healthy.batch_normalised(4, 64))[:-1], nn.Linear(64, 10))


def _gelu() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.LayerNorm(128), nn.Linear(128, 10))


_MODELS: dict[str, Callable[[], nn.Module]] = {
    "ReLU": _rectified,
    "deep tanh": _deep_tanh,
    "residual": _residual,
    "BatchNorm": _batch_normalised,
    "GELU and LayerNorm": _gelu,
}


def cases() -> Iterator[Case]:
    """All of them."""
    for name in _MODELS:
        for fraction in _FRACTIONS:
            yield Case(f"{name} on digits after {fraction:.0%} of its training", partial(_subject, name, fraction))


def _subject(name: str, fraction: float, seed: int) -> Subject:
    model, state = _snapshots(name, seed)[fraction]
    images, labels = _digits()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    optimizer.load_state_dict(copy.deepcopy(state))
    return Subject(model, images[:128], labels[:128], F.cross_entropy, optimizer)


@functools.lru_cache(maxsize=64)
def _snapshots(name: str, seed: int) -> dict[float, tuple[nn.Module, dict]]:
    torch.manual_seed(seed)
    model = _MODELS[name]()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    images, labels = _digits()
    found: dict[float, tuple[nn.Module, dict]] = {}
    for step in range(_NUM_STEPS + 1):
        if step / _NUM_STEPS in _FRACTIONS:
            found[step / _NUM_STEPS] = copy.deepcopy(model), copy.deepcopy(optimizer.state_dict())
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
    accuracy = (model(images).argmax(-1) == labels).float().mean().item()
    if accuracy < _CEILING:
        raise RuntimeError(f"{name}, seed {seed}: the training ended at {accuracy:.3f}, so it is no healthy case")
    return found


@functools.cache
def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    return torch.tensor(images / 16.0, dtype=torch.float32), torch.tensor(labels)
