"""Runs every detector on every case over several seeds, and counts."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import dataclass, field

from benchmarks.detectors import lookalikes, planted, published, recurrent, trained, written_by_users
from benchmarks.detectors.case import Case
from benchmarks.detectors.detectors import DETECTORS, Answer
from benchmarks.table import Result

SEEDS = range(5)
_REMARK = (
    "Recall counts the right code (for other tools, which have no codes, the right kind of fault); located, that the module to "
    "blame is named too; false alarms, healthy networks with any alarm (for Headwater, a finding at warning or above). Targets: "
    "recall 0.97, false alarms 0."
)


@dataclass
class Score:
    """Of one detector.

    Args:
        num_broken: seeds of broken cases.
        num_found: of them, with the right code (for peers: the right kind of fault).
        num_located: of them, with the right module too, where one is to blame.
        num_to_locate: seeds of broken cases in which one module is to blame.
        num_healthy: seeds of healthy cases.
        num_alarms: of them, with any alarm.
        mistakes: in words.
    """

    num_broken: int = 0
    num_found: int = 0
    num_to_locate: int = 0
    num_located: int = 0
    num_healthy: int = 0
    num_alarms: int = 0
    mistakes: list[str] = field(default_factory=list)


def run() -> list[Result]:
    """The table."""
    every = list(all_cases())
    scores = {name: score(every, name) for name in DETECTORS}
    broken, healthy = sum(not case.is_healthy for case in every), sum(case.is_healthy for case in every)
    rows = tuple(
        (
            name,
            f"{found.num_found / found.num_broken:.3f}",
            f"{found.num_located / found.num_to_locate:.3f}",
            f"{found.num_alarms / found.num_healthy:.3f}",
        )
        for name, found in scores.items()
    )
    title = f"Verdicts on {broken} broken and {healthy} healthy networks, {len(SEEDS)} seeds each"
    remarks = [
        _REMARK,
        *(f"Headwater's mistake: {mistake}." for mistake in scores["headwater"].mistakes),
    ]
    return [Result("detectors", title, ("detector", "recall", "located", "false alarms"), rows, tuple(remarks))]


def all_cases() -> Iterable[Case]:
    """The suite."""
    yield from published.cases()
    yield from planted.cases()
    yield from recurrent.cases()
    yield from trained.cases()
    yield from written_by_users.cases()
    yield from lookalikes.cases()


def score(every: Iterable[Case], name: str, seeds: Iterable[int] = SEEDS) -> Score:
    """What one detector gets right and wrong."""
    found = Score()
    for case in every:
        for seed in seeds:
            subject = case.make(seed)
            if subject is None:
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                answer = DETECTORS[name](subject)
            _count(found, case, seed, answer)
    return found


def _count(found: Score, case: Case, seed: int, answer: Answer) -> None:
    if case.is_healthy:
        found.num_healthy += 1
        found.num_alarms += bool(answer.codes)
        if answer.codes:
            found.mistakes.append(f"{case.name}, seed {seed}, healthy: {', '.join(sorted(answer.codes))}")
        return
    found.num_broken += 1
    is_right = bool(answer.codes & set(case.codes))
    found.num_found += is_right
    if not is_right:
        said = ", ".join(sorted(answer.codes)) or "nothing"
        found.mistakes.append(f"{case.name}, seed {seed}: {said} instead of {' or '.join(case.codes)}")
    if case.module is not None:
        found.num_to_locate += 1
        found.num_located += is_right and case.module in answer.modules
