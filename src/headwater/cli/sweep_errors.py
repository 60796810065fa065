"""How the commands on sweeps say what went wrong, and read values."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from headwater.cli.errors import CommandError, described


def number(text: str) -> int | float | str:
    """A value of the command line: a number where it is one.

    >>> number("4"), number("0.5"), number("relu")
    (4, 0.5, 'relu')
    """
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


@contextmanager
def errors_in_one_sentence() -> Iterator[None]:
    """What is wrong with a sweep is a `CommandError`."""
    from headwater.lab.sweep import GridError, SweepError
    from headwater.networks import SpecificationError

    try:
        yield
    except (GridError, SweepError, SpecificationError) as error:
        raise CommandError(str(error)) from error.__cause__
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("pyarrow", "scipy", "loky", "sklearn"):
            raise
        raise CommandError(f"sweeps need {error.name}, which is not installed: pip install 'headwater[lab]'") from None
    except MemoryError as error:
        raise CommandError(f"the machine has too little memory ({described(error)}); ask for fewer --workers") from None


@contextmanager
def warnings_as_lines() -> Iterator[None]:
    """What was left out of a damaged data set is said in a line, and not as Python says it."""
    from headwater.lab.sweep import SweepWarning

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", SweepWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, SweepWarning):
            sys.stderr.write(f"headwater: {warning.message}\n")
