from __future__ import annotations

import pytest

from headwater.rules import ALL_RULES
from headwater.rules.selection import UnknownCodeError, selected

CODES = [rule.code for rule in ALL_RULES]


@pytest.mark.parametrize(
    ("select", "ignore", "expected"),
    [
        ((), (), CODES),
        ("HW1", (), [code for code in CODES if code.startswith("HW1")]),
        (
            "hw101, HW3",
            "HW302",
            [code for code in CODES if code == "HW101" or (code.startswith("HW3") and code != "HW302")],
        ),
        (["HW101", "HW102"], ["HW101"], ["HW102"]),
        ((), "HW", []),
        ("HW1,", (), [code for code in CODES if code.startswith("HW1")]),
    ],
)
def test_codes_and_their_beginnings_choose_rules_and_ignore_wins(select, ignore, expected):
    assert [rule.code for rule in selected(ALL_RULES, select, ignore)] == expected


@pytest.mark.parametrize("code", ["HW9", "101", "HW1011"])
def test_an_unknown_code_names_the_known_ones(code):
    with pytest.raises(UnknownCodeError, match=f"begins with '{code}'; there are: HW101"):
        selected(ALL_RULES, select=code)
    with pytest.raises(UnknownCodeError):
        selected(ALL_RULES, ignore=code)
