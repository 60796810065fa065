"""How commands show a diagnosis."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from headwater.cli.output import is_colored, width

if TYPE_CHECKING:
    from headwater.diagnosis import Diagnosis


def print_diagnosis(diagnosis: Diagnosis, *, format: str = "text", show_all: bool = False) -> None:
    """Prints a report to read, or one document of strict JSON (RFC 8259: no NaN, no Infinity), plain or SARIF.

    >>> from headwater.diagnosis import judge
    >>> from headwater.recording import RecordingBuilder
    >>> print_diagnosis(judge(RecordingBuilder().build()), format="json")
    {
      "schema_version": ...
    """
    if format != "text":
        data = diagnosis.to_dict() if format == "json" else diagnosis.to_sarif()
        print(json.dumps(data, allow_nan=False, indent=2))
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


def print_source(diagnosis: Diagnosis) -> None:
    """Prints the source code that the gradient goes through, file by file, with the decades of each line in the margin.

    Of each file the lines from the first to the last that it goes through, with a few around them.

    >>> from headwater.diagnosis import judge
    >>> from headwater.recording import RecordingBuilder
    >>> print_source(judge(RecordingBuilder().build()))
    <BLANKLINE>
    No line of your code calls an operation that the gradient goes through: the modules of the libraries do it all.
    """
    from headwater.report import can_show, shown_file

    stream = sys.stdout
    files = list(dict.fromkeys(cost.file for cost in diagnosis.lines))
    if not files:
        print(
            "\nNo line of your code calls an operation that the gradient goes through: the modules of the libraries do it all."
        )
    for file in files:
        print(f"\n{shown_file(file)}: decades that each line costs or adds, times the calls")
        try:
            print(
                diagnosis.annotate(file, color=is_colored(stream), ascii_only=not can_show(stream.encoding), around=3)
            )
        except ValueError as error:
            print(error)
