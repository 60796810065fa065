"""Options that several commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from headwater.cli.errors import CommandError, ExitCode

if TYPE_CHECKING:
    from headwater.diagnosis import Diagnosis
    from headwater.findings import Rule

traceback_option = click.option(
    "--traceback",
    is_flag=True,
    expose_value=False,
    is_eager=True,
    callback=lambda context, _, value: setattr(context.obj, "traceback", value),
    help="After an error, show where in your code it was raised.",
)
format_option = click.option(
    "--format",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
    help="A report to read, strict JSON, or SARIF 2.1.0 for code hosts.",
)
all_option = click.option(
    "--all", "show_all", is_flag=True, help="Show every module; repeated blocks are folded otherwise."
)
fail_on_option = click.option(
    "--fail-on",
    type=click.Choice(["info", "warning", "error", "never"]),
    default="warning",
    show_default=True,
    help="Exit with 1 for a finding this severe or worse.",
)

select_option = click.option(
    "--select", multiple=True, metavar="CODES", help="Ask only these rules: HW1,HW302 (beginnings of codes will do)."
)
ignore_option = click.option(
    "--ignore", multiple=True, metavar="CODES", help="Do not ask these rules; wins over --select."
)


def rules_of(select: tuple[str, ...], ignore: tuple[str, ...]) -> tuple[Rule, ...]:
    """The rules that --select and --ignore leave.

    Raises:
        CommandError: there is no such code.

    >>> [rule.code for rule in rules_of(("HW101",), ())]
    ['HW101']
    """
    from headwater.rules import ALL_RULES
    from headwater.rules.selection import UnknownCodeError, selected

    try:
        return selected(ALL_RULES, select, ignore)
    except UnknownCodeError as error:
        raise CommandError(str(error)) from None


def exit_code(diagnosis: Diagnosis, fail_on: str) -> ExitCode:
    """FINDINGS where there is one at least as severe as `fail_on` ("never": no matter what), else HEALTHY.

    >>> from headwater.diagnosis import judge
    >>> from headwater.recording import RecordingBuilder
    >>> exit_code(judge(RecordingBuilder().build()), "info")
    <ExitCode.HEALTHY: 0>
    """
    from headwater.findings import Severity

    if fail_on == "never":
        return ExitCode.HEALTHY
    limit = Severity[fail_on.upper()]
    is_bad = any(finding.severity >= limit for finding in diagnosis.findings)
    return ExitCode.FINDINGS if is_bad else ExitCode.HEALTHY
