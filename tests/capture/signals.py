"""Short ways to ask a recording what a test wants to know."""

from __future__ import annotations

from headwater.recording import Recording, TensorStats

Key = tuple[str, str, int, str]


def called(recording: Recording) -> list[str]:
    """The modules in the order they ran."""
    return [call.module for call in recording.calls]


def stats(recording: Recording, kind: str, module: str, call: int = 0, item: str | None = None) -> TensorStats:
    """The statistics of the one signal of that kind.

    Raises:
        AssertionError: there is none, or there are several.
    """
    found = [
        signal.stats
        for signal in recording.select(kind, module=module)
        if signal.call == call and item in (None, signal.item)
    ]
    assert len(found) == 1, f"{len(found)} signals of kind {kind} at '{module}' call {call} item {item}"
    return found[0]


def has(recording: Recording, kind: str, module: str, call: int = 0) -> bool:
    """Whether there is a signal of that kind."""
    return any(signal.call == call for signal in recording.select(kind, module=module))


def signals(recording: Recording, *kinds: str) -> dict[Key, TensorStats]:
    """All statistics of some kinds by (kind, module, call, item); of every kind if none is named."""
    return {
        (str(signal.kind), signal.module, signal.call, signal.item): signal.stats
        for signal in recording
        if not kinds or signal.kind in kinds
    }


def notes(recording: Recording) -> str:
    """What could not be observed, in one text."""
    return " ".join(recording.context.notes)
