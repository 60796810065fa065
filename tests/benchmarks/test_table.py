from __future__ import annotations

from benchmarks.table import Result, replace_in, to_markdown

FIRST = Result("depth", "Time per layer", ("layers", "ms"), (("10", "1.0"), ("100", "1.1")), ("Target: 1.5.",))
SECOND = Result("depth", "Time per layer", ("layers", "ms"), (("10", "0.5"),))


def test_markdown_has_a_heading_a_table_and_the_remarks():
    lines = to_markdown(FIRST).splitlines()
    assert lines[1:-1] == [
        "## Time per layer",
        "",
        "| layers | ms |",
        "|---|---|",
        "| 10 | 1.0 |",
        "| 100 | 1.1 |",
        "",
        "Target: 1.5.",
    ]


def test_a_first_result_is_added_and_a_later_one_replaces_it_alone():
    other = Result("memory", "Peak memory", ("batch",), (("1",),))
    document = replace_in(replace_in("# Benchmarks\n\nText.\n", FIRST), other)
    assert document.startswith("# Benchmarks\n\nText.\n\n<!-- depth begins")
    replaced = replace_in(document, SECOND)
    assert replaced.replace(to_markdown(SECOND), to_markdown(FIRST)) == document
    assert "1.1" not in replaced
    assert to_markdown(other) in replaced
