"""Which rules to ask: by code, or by the beginning of a code."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from headwater.findings import Rule


class UnknownCodeError(ValueError):
    """No rule has such a code; the message names those there are."""


def selected(
    rules: Sequence[Rule], select: str | Iterable[str] = (), ignore: str | Iterable[str] = ()
) -> tuple[Rule, ...]:
    """The rules whose code begins with one of `select` (all, if it is empty) and with none of `ignore`.

    Args:
        rules: to choose from.
        select: codes or beginnings of codes, as "HW1" or "HW302": a sequence, or text with commas between them.
        ignore: the same; it wins.

    Raises:
        UnknownCodeError: no rule's code begins like that.

    >>> from headwater.rules import ALL_RULES
    >>> [rule.code for rule in selected(ALL_RULES, "HW1", ignore=["HW103", "HW104"])][:2]
    ['HW101', 'HW102']
    """
    wanted, unwanted = _codes(rules, select), _codes(rules, ignore)
    return tuple(
        rule
        for rule in rules
        if (not wanted or rule.code.startswith(wanted)) and not (unwanted and rule.code.startswith(unwanted))
    )


def _codes(rules: Sequence[Rule], given: str | Iterable[str]) -> tuple[str, ...]:
    texts = [given] if isinstance(given, str) else list(given)
    codes = tuple(code.strip().upper() for text in texts for code in text.split(",") if code.strip())
    for code in codes:
        if not any(rule.code.startswith(code) for rule in rules):
            known = ", ".join(rule.code for rule in rules)
            raise UnknownCodeError(f"no rule has a code that begins with '{code}'; there are: {known}")
    return codes
