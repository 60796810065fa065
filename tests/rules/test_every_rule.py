from __future__ import annotations

import re
from pathlib import Path

import pytest

from headwater.rules import ALL_RULES

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("rule", ALL_RULES, ids=lambda rule: rule.code)
def test_a_rule_has_its_file_its_tests_and_its_page(rule):
    stem = f"{rule.code.lower()}_{rule.name.replace('-', '_')}"
    assert (ROOT / "src" / "headwater" / "rules" / f"{stem}.py").is_file()
    assert (ROOT / "tests" / "rules" / f"test_{stem}.py").is_file()
    page = (ROOT / "docs" / "rules" / f"{rule.code.lower()}.md").read_text(encoding="utf-8")
    assert page.startswith(f"# {rule.code} {rule.name}\n")


def test_codes_and_names_are_unique_and_well_formed():
    assert len({rule.code for rule in ALL_RULES}) == len({rule.name for rule in ALL_RULES}) == len(ALL_RULES)
    assert all(re.fullmatch(r"HW[1-4]\d\d", rule.code) for rule in ALL_RULES)
