"""A table says the same in every form: text of equal rows, no character that ends a cell."""

import html
import io
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from rich.console import Console

from moe_tune.reports.table import DASH, Table, intervals, markdown_text, numbers, shares, words

NAMES = ["a|b", "50 % & more_", r"\~^{$#}"]


@pytest.fixture
def table():
    share = pd.Series([1 / 3, np.nan, 0.5])
    return Table(
        [
            words("name", NAMES, notes=["", "rough", ""]),
            shares("share, %", share),
            intervals("95 % interval", share - 0.1, share + 0.1),
            words("verdict", ["holds", "does not hold", "inconclusive"], ["good", "bad", "open"]),
        ],
        caption="What it means.",
        title="Some shares",
    )


def test_markdown_keeps_its_cells_apart(table):
    lines = [re.split(r"(?<!\\)\|", line)[1:-1] for line in table.markdown().splitlines()]
    assert {len(line) for line in lines} == {4}
    assert [cell.strip() for cell in lines[1]] == [":---", "---:", "---:", ":---"]
    assert [re.sub(r"\\(\W|_)", r"\1", line[0].strip()) for line in lines[2:]] == [
        NAMES[0],
        f"{NAMES[1]} (rough)",
        NAMES[2],
    ]
    assert [cell.strip() for cell in lines[2][1:3]] == ["33.3", "[23.3, 43.3]"]
    assert [cell.strip() for cell in lines[3][1:3]] == [DASH, DASH]


def test_latex_has_no_character_that_means_something(table):
    text = table.latex()
    body = text[text.index(r"\midrule") : text.index(r"\bottomrule")]
    rows = [row for row in body.splitlines()[1:] if row]
    assert all(row.endswith(r" \\") and len(re.findall(r"(?<!\\)&", row)) == 3 for row in rows)
    plain = re.sub(r"\\text\w+\{\}|\\[%&_#${}]", "", body)
    assert not re.search(r"[%_#$^~{}]", plain)
    assert text.startswith("% Some shares\n% What it means.\n\\begin{tabular}{lrrl}")


def test_the_terminal_shows_every_number_whole_and_folds_words(table):
    stream = io.StringIO()
    Console(file=stream, width=46, force_terminal=True, color_system="standard").print(table.terminal())
    shown = re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())
    assert "[23.3, 43.3]" in shown
    assert "…" not in shown
    assert "\x1b[32mholds" in stream.getvalue()


@pytest.mark.parametrize(("form", "scale", "text"), [(",.0f", 1, "12,346"), (".2g", 100, "1.2e+06")])
def test_numbers_are_printed_by_their_form_and_kept_by_their_value(form, scale, text):
    (cell,) = numbers("n", [12345.6], form, scale).cells
    assert (cell.text, cell.value) == (text, scale * 12345.6)


SHOWN = st.text(st.sampled_from("![]()\\*_`|<>&;#a1 :/~"), max_size=24)


@given(SHOWN)
def test_markdown_shows_a_text_as_it_is(text):
    page = MarkdownIt("commonmark", {"html": True}).enable("table").render(f"| x |\n|---|\n| {markdown_text(text)} |\n")
    cell = re.search(r"<td>(.*)</td>", page, re.DOTALL)[1]
    assert "<" not in cell
    assert " ".join(html.unescape(cell).split()) == " ".join(text.split())
