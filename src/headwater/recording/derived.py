"""What is computed from a recording is computed once: a recording never changes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from headwater.recording.recording import Recording

Result = TypeVar("Result")


def computed_once(compute: Callable[[Recording], Result]) -> Callable[[Recording], Result]:
    """The function, which keeps its result with the recording: several rules and the report ask for the same.

    The result is shared, so it must be of a kind that nobody changes: a frozen dataclass, a tuple, a mapping that is only read.

    >>> from headwater.recording import RecordingBuilder
    >>> @computed_once
    ... def calls_twice(recording):
    ...     return (recording.calls, recording.calls)
    >>> recording = RecordingBuilder().build()
    >>> calls_twice(recording) is calls_twice(recording)
    True
    """

    @functools.wraps(compute)
    def kept(recording: Recording) -> Result:
        results = recording.derived
        if compute not in results:
            results[compute] = compute(recording)
        return results[compute]

    return kept
