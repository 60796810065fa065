"""The one error of this package."""


class EnsembleError(ValueError):
    """The ensemble cannot be measured; the message says in one sentence what was expected, what arrived and what to do."""
