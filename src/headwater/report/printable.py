"""Names from a user's model, made safe to print: no control characters, no terminal escapes, one line."""

from __future__ import annotations


def printable(text: str) -> str:
    r"""The text with everything that is not printable (escapes, newlines, bidirectional marks) replaced.

    >>> printable("a\x1b[31mb\nc")
    'a\ufffd[31mb\ufffdc'
    """
    return "".join(character if character.isprintable() else "\ufffd" for character in text)


def listed(names: tuple[str, ...], limit: int = 6) -> str:
    """Names of modules joined by commas, the model itself as "the model", and how many more there are.

    >>> listed(("", "a", "b"), limit=2)
    'the model, a and 1 more'
    """
    shown = ", ".join(printable(name) or "the model" for name in names[:limit])
    more = len(names) - limit
    return f"{shown} and {more} more" if more > 0 else shown
