"""Compares rendered reports with files that somebody has read and found good.

After a change that is meant, write them anew and read the difference:

    HEADWATER_UPDATE_GOLDEN=1 pytest tests/report && git diff tests/report/golden
"""

from __future__ import annotations

import os
from pathlib import Path

_FOLDER = Path(__file__).parent / "golden"


def assert_matches(name: str, text: str) -> None:
    """Fails where the text is not the golden file's; writes it instead where HEADWATER_UPDATE_GOLDEN is set."""
    path = _FOLDER / name
    if os.environ.get("HEADWATER_UPDATE_GOLDEN"):
        path.write_text(text, encoding="utf-8", newline="\n")
    golden = path.read_text(encoding="utf-8") if path.exists() else ""
    assert text == golden, f"{name} has changed; if that is meant: HEADWATER_UPDATE_GOLDEN=1 pytest tests/report"
