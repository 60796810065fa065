"""How commands show a diagnosis."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from headwater.cli.output import is_colored, width

if TYPE_CHECKING:
    from headwater.diagnosis import Diagnosis


def print_diagnosis(diagnosis: Diagnosis, *, format: str = "text", show_all: bool = False) -> None:
    """Prints a report to read, or one document of strict JSON (RFC 8259: no NaN, no Infinity) and nothing else.

    >>> from headwater.diagnosis import judge
    >>> from headwater.recording import RecordingBuilder
    >>> print_diagnosis(judge(RecordingBuilder().build()), format="json")
    {
      "schema_version": ...
    """
    if format == "json":
        print(json.dumps(diagnosis.to_dict(), allow_nan=False, indent=2))
        return
    from headwater.report import can_show

    stream = sys.stdout
    text = diagnosis.to_text(
        width=width(stream),
        color=is_colored(stream),
        show_all=show_all,
        ascii_only=not can_show(stream.encoding),
    )
    print(text, end="")
