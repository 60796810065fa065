from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import headwater as hw
from headwater.report import render_html
from tests.report import examples
from tests.report.examples import document_of
from tests.report.golden_files import assert_matches
from tests.report.sketch import Sketch, chain, finding

VOID = {"br"}


class Parsed(HTMLParser):
    """What a browser would make of a fragment: text, tags, and whether every tag is closed in its turn."""

    def __init__(self, html):
        super().__init__()
        self.text = ""
        self.tags = []
        self.attributes = []
        self.open = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.mark.parametrize("name", ["vanishing", "troubled"])
def test_html_looks_as_it_did_when_it_was_read(name):
    assert_matches(f"{name}.html", render_html(getattr(examples, name)()))


@pytest.mark.parametrize("name", ["vanishing", "exploding", "transformer", "troubled", "forward_only"])
def test_html_is_one_closed_element_without_scripts_links_or_colours_of_the_page(name):
    html = render_html(getattr(examples, name)())
    parsed = Parsed(html)
    assert parsed.open == []
    assert parsed.tags[0] == "div"
    assert html.isascii()
    assert not {"script", "style", "link", "img", "iframe"} & set(parsed.tags)
    assert {name for name, _ in parsed.attributes} <= {"style", "colspan"}
    assert "background:#fff" not in html
    assert "color:black" not in html


@given(st.text(min_size=1, max_size=40))
def test_whatever_a_model_is_called_stays_text(name):
    sketch = Sketch(name)
    root = sketch.call("")
    sketch.call(name.replace(".", "_"), name, inside=root, weight=0.1)
    found = finding("HW101", name, message=name, cause=name, remedies=(name,))
    recording = sketch.build(notes=(name,))
    parsed = Parsed(render_html(document_of(recording, found, not_applicable=[("HW201", name)])))
    assert parsed.open == []
    assert set(parsed.tags) <= {"div", "b", "span", "i", "table", "thead", "tbody", "tr", "th", "td", "ol", "li", "br"}
    assert {name for name, _ in parsed.attributes} <= {"style", "colspan"}


def test_tags_in_names_are_shown_and_not_obeyed():
    sketch = Sketch("<script>alert(1)</script>")
    sketch.call("")
    html = render_html(document_of(sketch.build()))
    assert "<script" not in html
    assert "<script>alert(1)</script>" in Parsed(html).text


def test_folded_rows_can_be_unfolded_in_the_page_and_no_row_is_lost():
    parsed = Parsed(render_html(examples.transformer()))
    assert "details" in parsed.tags
    for index in range(12):
        assert f"h.{index} " in parsed.text


def test_a_table_too_long_for_a_notebook_is_not_repeated_in_full():
    html = render_html(document_of(chain(*([-1.0] * 1000)).build()))
    assert "<details" not in html
    assert len(html) < 20_000
    assert "show_all=True" in html


def test_columns_without_content_are_left_out():
    text = Parsed(render_html(examples.forward_only())).text
    assert "forward RMS" in text
    assert "gradient norm" not in text
    assert "flags" not in text


def test_lines_of_code_and_what_theory_expects_are_there_and_escaped():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = nn.ModuleList(nn.Linear(16, 16) for _ in range(20))

        def forward(self, x):
            for layer in self.layers:
                x = torch.sigmoid(layer(x)) if 1 < 2 else x
            return x

    torch.manual_seed(0)
    html = hw.diagnose(Net(), torch.randn(8, 16))._repr_html_()
    assert "<code>x = torch.sigmoid(layer(x)) if 1 &lt; 2 else x</code>" in html
    assert "PyTorch&#x27;s default initialisation gives with Sigmoid" in html
