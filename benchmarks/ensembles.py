"""Many seeds of one network: a plain loop, PyTorch's vmap, and one batched computation, building and statistics included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from benchmarks.table import Result
from benchmarks.timing import interleaved
from headwater.lab.ensembles import measure_ensemble
from headwater.networks import NetworkSpec
from headwater.networks.families import input_shape

ROUNDS = 5
_MLPS = ((1000, 5, 3, 1), (100, 50, 64, 32))  # networks, weight layers, width, samples
_OTHERS = (
    (32, "conv depth=18 width=8 normalisation=batch shortcut=identity num_inputs=1"),
    (32, "transformer depth=4 width=32 normalisation=layer shortcut=identity"),
    (32, "rnn depth=50 width=32 activation=tanh"),
    (32, "gru depth=50 width=32 activation=tanh"),
    (32, "lstm depth=50 width=32 activation=tanh"),
)
_SAMPLES = 16


def run() -> list[Result]:
    """The tables, on all threads, as a call has, and on one, as a worker of a sweep has."""
    threads = torch.get_num_threads()
    results = [_mlps("ensembles")] if threads > 1 else []
    torch.set_num_threads(1)
    try:
        return [*results, _mlps("ensembles-on-one-thread"), _others()]
    finally:
        torch.set_num_threads(threads)


def _mlps(name: str) -> Result:
    rows = []
    for num_networks, num_layers, width, num_samples in _MLPS:
        spec = NetworkSpec(depth=num_layers - 1, width=width, activation="gelu", num_inputs=width, num_outputs=width)
        inputs, seeds = torch.randn(num_samples, width), range(num_networks)
        variants: dict[str, Callable[[], object]] = {
            "plain loop": lambda inputs=inputs, seeds=seeds, n=num_layers: [_plain(seed, n, inputs) for seed in seeds],
            "modules, stack_module_state, vmap(grad)": (
                lambda inputs=inputs, seeds=seeds, n=num_layers: _stacked_modules(seeds, n, inputs)
            ),
        }
        for method in ("loop", "vmap", "batched"):
            variants[f'measure_ensemble(method="{method}")'] = (
                lambda spec=spec, inputs=inputs, seeds=seeds, method=method: measure_ensemble(
                    spec, seeds, inputs, method=method
                )
            )
        case = f"{num_networks} x {num_layers} x {width} x {num_samples}"
        rows += _rows(case, variants)
    num_threads = torch.get_num_threads()
    threads = "one thread" if num_threads == 1 else f"{num_threads} threads"
    title = f"Ensembles of mlps: building, forward, backward and statistics of every layer, {threads}, {ROUNDS} rounds"
    columns = ("networks x layers x width x samples", "what runs", "ms", "x as fast as the plain loop", "quartiles")
    remark = (
        "The plain loop builds nn.Linear modules, and takes the same statistics with one transfer per network; vmap(grad) gives mean absolute weight "
        "gradients alone. Targets: 20 for 1000 x 5 x 3 x 1, 7 for 100 x 50 x 64 x 32."
    )
    return Result(name, title, columns, tuple(rows), (remark,))


def _others() -> Result:
    rows = []
    for num_networks, line in _OTHERS:
        spec = NetworkSpec.parse(line)
        inputs = torch.randn(_SAMPLES, *input_shape(spec))
        variants: dict[str, Callable[[], object]] = {
            method: lambda spec=spec, inputs=inputs, n=num_networks, method=method: measure_ensemble(
                spec, range(n), inputs, method=method
            )
            for method in ("loop", "vmap")
        }
        rows += _rows(line, variants)
    title = f"Ensembles of other families: {_OTHERS[0][0]} networks, {_SAMPLES} samples, one thread, {ROUNDS} rounds"
    columns = ("network", "method", "ms", "x as fast as the loop", "quartiles")
    return Result("ensembles-of-other-families", title, columns, tuple(rows))


def _rows(case: str, variants: dict[str, Callable[[], object]]) -> list[tuple[str, ...]]:
    timings = interleaved(variants, rounds=ROUNDS, warm_up=1)
    return [
        (case, t.name, f"{1e3 * t.seconds:.0f}", f"{1 / t.ratio:.1f}", f"{1 / t.upper:.1f} to {1 / t.lower:.1f}")
        for t in timings
    ]


def _layers(seed: int, num_layers: int, width: int) -> nn.Sequential:
    torch.manual_seed(seed)
    hidden = [layer for _ in range(num_layers - 1) for layer in (nn.Linear(width, width), nn.GELU())]
    return nn.Sequential(*hidden, nn.Linear(width, width))


def _plain(seed: int, num_layers: int, inputs: Tensor) -> list[list[float]]:
    """One network, as one writes it down: RMS and gradient of every layer's output, mean absolute value and norm of every weight's gradient."""
    model = _layers(seed, num_layers, inputs.shape[-1])
    x, outputs = inputs, []
    for module in model:
        x = module(x)
        if isinstance(module, nn.GELU) or module is model[-1]:
            x.retain_grad()
            outputs.append(x)
    x.backward(torch.ones_like(x))
    gradients = [
        module.weight.grad for module in model if isinstance(module, nn.Linear) and module.weight.grad is not None
    ]
    statistics = [
        torch.stack([output.detach().square().mean().sqrt() for output in outputs]),
        torch.stack([output.grad.norm() for output in outputs if output.grad is not None]),
        torch.stack([gradient.abs().mean() for gradient in gradients]),
        torch.stack([gradient.norm() for gradient in gradients]),
    ]
    return torch.stack(statistics).tolist()


def _stacked_modules(seeds: range, num_layers: int, inputs: Tensor) -> dict[str, list[float]]:
    """As PyTorch's tutorial on ensembles does it."""
    models = [_layers(seed, num_layers, inputs.shape[-1]) for seed in seeds]
    parameters, buffers = torch.func.stack_module_state(models)

    def loss(own: dict[str, Tensor], its_buffers: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(models[0], (own, its_buffers), (inputs,)).sum()

    gradients = torch.vmap(torch.func.grad(loss))(parameters, buffers)
    return {name: g.abs().flatten(1).mean(1).tolist() for name, g in gradients.items() if name.endswith("weight")}
