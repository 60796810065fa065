"""Ten thousand modules are no problem: every question costs work in proportion to what it asks about."""

from __future__ import annotations

import cProfile
from collections.abc import Callable
from pathlib import Path

from headwater.recording import Recording, RecordingBuilder, SignalKind, TensorStats, load, merge, save


def chain(num_layers: int) -> Recording:
    """A root that calls a chain of layers, each with its activation, two gradients and a weight."""
    builder = RecordingBuilder()
    builder.add_module("", "Sequential", is_leaf=False)
    builder.add_call(0)
    stats = TensorStats.from_values([1.0, -2.0])
    for number in range(num_layers):
        name = f"layers.{number}"
        module = builder.add_module(name, "Linear", parent=0)
        depth = builder.add_call(module, parent=0)
        output = builder.add_signal(module, SignalKind.ACTIVATION, stats, depth=depth)
        builder.add_signal(module, SignalKind.ACTIVATION_GRADIENT, stats, depth=depth, tensor=output)
        builder.add_signal(module, SignalKind.INPUT_GRADIENT, stats, depth=depth)
        builder.add_signal(module, SignalKind.WEIGHT, stats, depth=depth, item="weight")
        builder.add_parameter(module, f"{name}.weight")
        builder.add_units(depth, 4, [0.0, 1.0], [1.0, 2.0])
    return builder.build()


def ask_everything(recording: Recording) -> int:
    """Asks about each call and module alone, as rules do; returns how many answers came."""
    num_answers = 0
    for call in recording.calls:
        num_answers += len(recording.select(depth=call.depth))
        num_answers += recording.signal("activation", call.depth) is not None
        num_answers += len(recording.children(call.depth))
    for module in recording.modules:
        num_answers += len(recording.select("weight", module=module.name))
    return num_answers + len(recording.parameters) + len(recording.units)


def num_function_calls(work: Callable[[], object]) -> int:
    profile = cProfile.Profile()
    profile.runcall(work)
    return sum(entry.callcount for entry in profile.getstats())


def test_ten_thousand_modules_are_built_saved_loaded_and_asked(tmp_path: Path):
    recording = chain(10_000)
    save(recording, tmp_path / "large.hw")
    loaded = load(tmp_path / "large.hw")
    assert ask_everything(loaded) == 9 * 10_000
    assert loaded == recording
    assert (tmp_path / "large.hw").stat().st_size < 5_000_000


def test_work_grows_in_proportion_to_the_number_of_modules(tmp_path: Path):
    def build_and_ask(num_layers: int) -> int:
        return ask_everything(chain(num_layers))

    def store_and_merge(num_layers: int) -> int:
        recording = chain(num_layers)
        save(recording, tmp_path / "run.hw")
        return len(merge(load(tmp_path / "run.hw"), recording))

    for work in (build_and_ask, store_and_merge):
        work(10)  # whatever is set up once
        small, large = (num_function_calls(lambda n=n, work=work: work(n)) for n in (200, 2000))
        assert large < 10.5 * small
