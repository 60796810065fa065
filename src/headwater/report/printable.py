"""Text from a user's model, made safe to print: no control characters, no terminal escapes, one line."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

_REPLACEMENT = "\ufffd"
_VARIATION_SELECTORS = range(0xFE00, 0xFE10)  # terminals do not agree on how wide they make a character
_SIMILAR = str.maketrans("−–—‘’“”×·•≈≤≥→←²³", "---''\"\"x.*~<>><23")


def printable(text: str) -> str:
    r"""The text with everything that is not printable (escapes, newlines, bidirectional marks) replaced.

    >>> printable("a\x1b[31mb\nc")
    'a\ufffd[31mb\ufffdc'
    """
    if text.isascii() and text.isprintable():
        return text
    kept = (character for character in text if ord(character) not in _VARIATION_SELECTORS)
    return "".join(character if character.isprintable() else _REPLACEMENT for character in kept)


def printable_ascii(text: str) -> str:
    """The same for streams that know ASCII alone: a similar character, or question marks as wide as what they replace.

    >>> printable_ascii("3 × größer 漢")
    '3 x gr??er ??'
    """
    similar = printable(text).translate(_SIMILAR)
    return "".join(character if character.isascii() else "?" * cell_len(character) for character in similar)


def shortened(text: str, width: int, ellipsis: str = "…") -> str:
    """The text in at most `width` columns, its middle left out: both ends of a module's name tell it from others.

    >>> shortened("post_attention_layernorm", 13)
    'post_a…ernorm'
    """
    if cell_len(text) <= width:
        return text
    for kept in range(min(len(text), width) - len(ellipsis), 1, -1):
        tail = kept // 2
        candidate = text[: kept - tail] + ellipsis + text[len(text) - tail :]
        if cell_len(candidate) <= width:
            return candidate
    return ellipsis[: max(width, 0)]


def listed(names: Sequence[str], limit: int | None = 6) -> str:
    """Names joined by commas, the first of them and how many more there are.

    >>> listed(("a", "b", "c"), limit=2), listed(("a", "b", "c"), limit=None)
    ('a, b and 1 more', 'a, b, c')
    """
    if limit is None or len(names) <= limit:
        return ", ".join(names)
    return f"{', '.join(names[:limit])} and {len(names) - limit} more"
