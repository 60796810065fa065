"""What ends a sweep."""

from __future__ import annotations


class SweepError(RuntimeError):
    """A sweep cannot begin or go on; the message says in one sentence what happened, what is kept and what to do."""


class SweepWarning(UserWarning):
    """Something in a sweep's folder was left out; the message names it."""
