"""Models, optimisers and their next steps, for the tests of what is said of them."""

from __future__ import annotations

import torch
from torch import nn

from headwater.capture import Problem, observe
from headwater.recording import Recording

OPTIMIZERS = {
    "SGD": lambda p: torch.optim.SGD(p, 1e-3),
    "SGD with all": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, nesterov=True, weight_decay=1e-2, maximize=True),
    "SGD damped": lambda p: torch.optim.SGD(p, 1e-3, momentum=0.9, dampening=0.5, foreach=True),
    "Adam": lambda p: torch.optim.Adam(p, 1e-3),
    "Adam with all": lambda p: torch.optim.Adam(p, 1e-3, weight_decay=1e-2, amsgrad=True, foreach=True),
    "Adam, fused": lambda p: torch.optim.Adam(p, 1e-3, fused=True),
    "AdamW": lambda p: torch.optim.AdamW(p, 1e-3),
    "AdamW, tensor rate": lambda p: torch.optim.AdamW(p, torch.tensor(1e-3).double(), maximize=True),
    "RMSprop": lambda p: torch.optim.RMSprop(p, 1e-3),
    "Adagrad": lambda p: torch.optim.Adagrad(p, 1e-3),
    "Adadelta": torch.optim.Adadelta,
    "Adafactor": torch.optim.Adafactor,
    "NAdam": torch.optim.NAdam,
    "ASGD": torch.optim.ASGD,
    "Rprop": torch.optim.Rprop,
    "two groups": lambda p: torch.optim.AdamW([{"params": p[:2]}, {"params": p[2:], "lr": 1e-5, "weight_decay": 0.3}]),
}
EXACT = [name for name in OPTIMIZERS if name.startswith(("SGD", "Adam", "AdamW", "two")) and "Adama" not in name]
loss = nn.MSELoss()


def net(dtype=torch.float32, scale=1.0):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 4)).to(dtype)
    with torch.no_grad():
        model[0].weight.mul_(scale)
    return model


def data(dtype=torch.float32):
    generator = torch.Generator().manual_seed(1)
    return (
        torch.randn(32, 8, generator=generator).to(dtype),
        torch.randn(32, 4, generator=generator).to(dtype),
    )


def step_once(model, optimizer, dtype=torch.float32):
    inputs, targets = data(dtype)
    optimizer.zero_grad()
    loss(model(inputs), targets).backward()
    optimizer.step()


def trained(name, num_steps, dtype=torch.float32):
    model = net(dtype)
    optimizer = OPTIMIZERS[name](list(model.parameters()))
    for _ in range(num_steps):
        step_once(model, optimizer, dtype)
    return model, optimizer


def observed(model, optimizer, dtype=torch.float32, loss=loss) -> Recording:
    inputs, targets = data(dtype)
    return observe(Problem(model, inputs, targets, loss, optimizer))


def numbers(recording: Recording, what: str) -> dict[str, list[float]]:
    return {f"{s.module}.{s.item}".strip("."): s.values.tolist() for s in recording.series(what)}


def counts(recording: Recording, what: str) -> dict[str, float]:
    return {name: sum(values) for name, values in numbers(recording, what).items()}
