from __future__ import annotations

import math

import pytest

from headwater.analysis import LineCost
from headwater.report import annotated_file
from headwater.report.annotation import annotated

SOURCE = "import torch\n\ndef forward(self, x):\n    x = torch.sigmoid(self.layer(x))\n    return self.head(x)\n# end\n"


def cost(line, decades, *, operation="torch.sigmoid", calls=1, file="model.py"):
    return LineCost(file, line, SOURCE.splitlines()[line - 1].strip(), operation, calls, decades, ("",))


COSTS = [cost(4, -12.4, calls=20), cost(4, -4.6, operation="F.linear", calls=20), cost(5, -0.2, operation="F.linear")]


def test_the_operations_of_a_line_are_added_up_and_the_hottest_lines_are_marked():
    assert annotated(SOURCE, COSTS).splitlines() == [
        "            │   1 import torch",
        "            │   2",
        "            │   3 def forward(self, x):",
        "-17.00 ×20 >│   4     x = torch.sigmoid(self.layer(x))",
        "     -0.20  │   5     return self.head(x)",
        "            │   6 # end",
    ]


def test_only_what_is_around_the_lines_is_shown_if_asked():
    assert [row.split("│")[1].split()[0] for row in annotated(SOURCE, COSTS, around=1).splitlines()] == list("3456")


def test_colour_says_nothing_that_the_mark_does_not():
    colored = annotated(SOURCE, COSTS, color=True)
    assert "\x1b[31m" in colored
    plain = colored.replace("\x1b[31m", "").replace("\x1b[0m", "")
    assert plain == annotated(SOURCE, COSTS)


def test_ascii_is_ascii():
    assert annotated(SOURCE, COSTS, ascii_only=True).isascii()


def test_a_line_that_stops_the_gradient_is_marked_whatever_else_there_is():
    rows = annotated(SOURCE, [cost(4, -math.inf), cost(5, 0.1)]).splitlines()
    assert rows[3].lstrip().startswith("-inf >")
    assert ">" not in rows[4]


def test_small_changes_are_not_marked_even_where_they_are_the_largest():
    assert ">" not in annotated(SOURCE, [cost(4, -0.25), cost(5, 0.1)])


def test_a_file_is_found_by_any_name_of_it(tmp_path, monkeypatch):
    path = tmp_path / "model.py"
    path.write_text(SOURCE)
    monkeypatch.chdir(tmp_path)
    costs = [cost(4, -3.0, file=str(path)), cost(1, -0.1, file="other.py")]
    assert annotated_file("model.py", costs) == annotated_file(path, costs) == annotated_file(None, costs)


def test_a_file_without_lines_names_those_that_have_some(tmp_path):
    with pytest.raises(ValueError, match=r"no operation .* called from 'train.py'; there are lines of: model.py"):
        annotated_file("train.py", COSTS)
    with pytest.raises(ValueError, match="no lines were recorded"):
        annotated_file("train.py", [])


def test_a_file_that_is_gone_is_said_to_be():
    with pytest.raises(ValueError, match="cannot be read"):
        annotated_file("gone.py", [cost(4, -3.0, file="gone.py")])
