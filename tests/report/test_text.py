from __future__ import annotations

import re
from io import BytesIO, TextIOWrapper

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from headwater.findings import Severity
from headwater.recording import RecordingBuilder
from headwater.report import TextReport, render_text
from tests.report import examples
from tests.report.examples import document_of
from tests.report.golden_files import assert_matches
from tests.report.sketch import Sketch, chain, finding

ALL = {
    "vanishing": examples.vanishing,
    "exploding": examples.exploding,
    "transformer": examples.transformer,
    "troubled": examples.troubled,
    "forward_only": examples.forward_only,
}
GOLDEN = {
    **{f"{name}.txt": (name, {}) for name in ALL},
    "troubled_ascii.txt": ("troubled", {"ascii_only": True}),
    "troubled_color.txt": ("troubled", {"color": True}),
    "troubled_40.txt": ("troubled", {"width": 40}),
    "transformer_60.txt": ("transformer", {"width": 60}),
    "transformer_120.txt": ("transformer", {"width": 120}),
    "transformer_all.txt": ("transformer", {"show_all": True}),
}


@pytest.mark.parametrize("file", GOLDEN)
def test_reports_look_as_they_did_when_they_were_read(file):
    name, options = GOLDEN[file]
    assert_matches(file, render_text(ALL[name](), **options))


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("width", [40, 57, 80, 100, 200])
@pytest.mark.parametrize("ascii_only", [False, True])
def test_no_line_is_wider_than_asked_for(name, width, ascii_only):
    text = render_text(ALL[name](), width=width, ascii_only=ascii_only)
    assert max(map(cell_len, text.splitlines())) <= width


# Printed as they are, these would colour, clear, overwrite, reverse or widen the terminal, or be taken for markup.
_NASTY = st.sampled_from(
    [
        "[bold red]x[/]",
        "a\nb",
        "\x1b[2J",
        "\x9b31m",
        "\u202eevil",
        "漢字" * 9,
        "\r",
        "\t",
        "👩\u200d🔬",
        "e\u0301",
        "🇩🇪",
        "\ud800",
    ]
)
_NAMES = st.one_of(st.text(min_size=1, max_size=30), st.lists(_NASTY, min_size=1, max_size=4).map("".join))


def _report_with_names(names, depth, num_repeats=0, **options):
    sketch = Sketch(names[0])
    caller = sketch.call("", shape=(4, 8))
    path = ""
    for level in range(depth):
        path = f"{path}.{level}" if path else "0"
        caller = sketch.call(path, names[-1], inside=caller)
    for name in names:
        own = name.replace(".", "_")
        sketch.call(f"{path}.{own}" if path else own, name, inside=caller, shape=(4,) * (len(name) % 9), weight=0.1)
        sketch.parameter(f"{own}_that_never_ran", gradient=0.1 if len(name) % 2 else None)
    for index in range(num_repeats):
        sketch.call(f"{names[0].replace('.', '_')}{index}", names[0], inside=caller, gradient=10.0**-index)
    recording = sketch.build(notes=tuple(names))
    found = [
        finding(f"HW{101 + i}", name, f"{name}7", message=name, cause=name, remedies=(name,))
        for i, name in enumerate(names)
    ]
    return render_text(document_of(recording, *found, not_applicable=[("HW401", names[0])]), **options)


@given(
    names=st.lists(_NAMES, min_size=1, max_size=5, unique_by=lambda name: name.replace(".", "_")),
    depth=st.integers(0, 12),
    num_repeats=st.sampled_from([0, 40]),
    width=st.integers(40, 140),
    ascii_only=st.booleans(),
)
@example(
    names=["\U0001f3fb"], depth=1, num_repeats=0, width=40, ascii_only=True
)  # nothing but a colour of skin: no width
def test_no_name_breaks_the_width_or_reaches_the_terminal_unescaped(names, depth, num_repeats, width, ascii_only):
    text = _report_with_names(names, depth, num_repeats, width=width, ascii_only=ascii_only)
    lines = text.split("\n")
    assert max(map(cell_len, lines)) <= width
    assert all(line.isprintable() for line in lines)
    assert text.isascii() or not ascii_only
    assert "HW101" in text


def test_markup_in_names_is_printed_as_it_is():
    assert "[bold red]x[/]" in _report_with_names(["[bold red]x[/]"], 0, width=120)


def _deep(num_layers):
    sketch = chain(*(-0.01 * (num_layers - index) for index in range(num_layers)))
    found = [
        finding("HW201", str(layer), severity=Severity.WARNING, message=f"{layer} is dead.", remedies=("Revive it.",))
        for layer in range(0, num_layers, 7)
    ]
    return document_of(sketch.build(), finding("HW101", "0"), *found)


@pytest.mark.parametrize("num_layers", [1000, 10_000])
def test_a_deep_model_with_many_findings_prints_less_than_two_screens(num_layers):
    document = _deep(num_layers)
    assert render_text(document).count("\n") < 60
    assert render_text(document, show_all=True).count("\n") > num_layers


def test_a_long_model_without_repeats_prints_less_than_two_screens():
    sketch = Sketch()
    root = sketch.call("")
    for index in range(1000):
        sketch.call(str(index), f"Type{index}", inside=root, weight=0.1)
    text = render_text(document_of(sketch.build(), finding("HW103", "500"), finding("HW101", "0")))
    assert text.count("\n") < 90
    assert re.search(r"9\d\d of 1,001 calls are folded: --all or to_text\(show_all=True\) shows them", text)
    assert any("500 Type500" in line and "HW103" in line for line in text.splitlines())


def test_colour_says_nothing_that_the_words_do_not():
    document = examples.troubled()
    colored = render_text(document, color=True)
    assert "\x1b[" in colored
    plain = Text.from_ansi(colored).plain
    assert [line.rstrip() for line in plain.splitlines()] == render_text(document).splitlines()


def test_a_rich_console_gets_its_own_width_and_encoding():
    document = examples.transformer()
    raw = BytesIO()
    console = Console(file=TextIOWrapper(raw, encoding="ascii"), width=100, force_terminal=False)
    console.print(TextReport(document))
    console.file.flush()
    printed = [line.rstrip() for line in raw.getvalue().decode("ascii").splitlines()]
    assert printed == render_text(document, width=100, ascii_only=True).splitlines()


def test_findings_beyond_the_fifth_group_take_one_line_each():
    sketch = chain(-1.0, -0.5)
    codes = [f"HW{number}" for number in range(501, 509)]
    document = document_of(sketch.build(), *(finding(code, "0", message=f"{code} happened.") for code in codes))
    text = render_text(document)
    assert text.count("  why  ") == 5
    assert "✗ HW508 some-finding (error): HW508 happened." in text
    assert render_text(document, show_all=True).count("  why  ") == 8


def test_an_empty_recording_is_reported_too():
    assert "No call of the model was recorded." in render_text(document_of(RecordingBuilder().build()))
