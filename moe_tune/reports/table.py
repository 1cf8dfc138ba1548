"""One table, declared once, for Markdown, LaTeX, a page and the terminal."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    import rich.table

ASSOCIATIONAL = "associational"
"""The label of every table of routing statistics."""
DASH = "–"
"""Printed where there is no value."""
STYLES = {"good": "green", "bad": "red", "even": "cyan", "open": "yellow", "muted": "dim"}
"""Tones of a cell, which are colours of the palette, in the terminal."""
LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "–": "--", "²": "$^2$"}


class Cell(NamedTuple):
    """What stands in one place: text, the value it is sorted by (``None``: a word), its tone, and a note beside it."""

    text: str
    value: Any = None
    tone: str = ""
    note: str = ""

    @property
    def whole(self) -> str:
        """The text with its note."""
        return f"{self.text} ({self.note})" if self.note else self.text


@dataclass(frozen=True, slots=True)
class Column:
    """One column.

    Args:
        header: Its heading, with the unit.
        cells: Its cells, row by row.
        left: Whether it stands to the left; numbers stand to the right.
        fold: Whether the terminal folds what is too long; what may not be cut is never folded.
    """

    header: str
    cells: list[Cell]
    left: bool = False
    fold: bool = False


@dataclass(frozen=True, slots=True)
class Table:
    """Columns of one length under one caption.

    Args:
        columns: The columns.
        caption: What its figures mean and how they were made.
        title: Its heading.
        evidence: What kind of evidence the figures are.
    """

    columns: list[Column]
    caption: str = ""
    title: str = ""
    evidence: str = ASSOCIATIONAL

    def rows(self) -> Iterator[tuple[Cell, ...]]:
        """Yield the cells of each row."""
        return zip(*(column.cells for column in self.columns), strict=True)

    def markdown(self) -> str:
        """Return the table as Markdown."""
        rule = [":---" if column.left else "---:" for column in self.columns]
        rows = ([markdown_text(cell.whole) for cell in row] for row in self.rows())
        lines = [[markdown_text(one) for one in self._headers()], rule, *rows]
        head, ruled, *body = ["| " + " | ".join(line) + " |" for line in lines]
        return "\n".join([head, ruled, *body])

    def latex(self) -> str:
        """Return the table as a LaTeX tabular with the rules of booktabs, its caption as a comment above."""
        comment = [f"% {' '.join(line.split())}" for line in (self.title, self.caption) if line]
        body = [_latex_line([cell.whole for cell in row]) for row in self.rows()]
        aligned = "".join("l" if column.left else "r" for column in self.columns)
        lines = [rf"\begin{{tabular}}{{{aligned}}}", r"\toprule", _latex_line(self._headers()), r"\midrule", *body]
        return "\n".join([*comment, *lines, r"\bottomrule", r"\end{tabular}"]) + "\n"

    def terminal(self) -> "rich.table.Table":
        """Return the table for a rich console; notes are left out."""
        from rich.box import SIMPLE_HEAD
        from rich.table import Table as Drawn
        from rich.text import Text

        drawn = Drawn(
            title=Text(self.title) if self.title else None, title_justify="left", title_style="bold", box=SIMPLE_HEAD,
            show_edge=False, padding=0, pad_edge=False,
        )  # fmt: skip
        for column in self.columns:
            drawn.add_column(
                Text(column.header),
                justify="left" if column.left else "right",
                overflow="fold" if column.fold else "ellipsis",
                no_wrap=not column.fold,
            )
        for row in self.rows():
            drawn.add_row(*(Text(cell.text, style=STYLES.get(cell.tone, "")) for cell in row))
        return drawn

    def _headers(self) -> list[str]:
        return [column.header.strip() for column in self.columns]


def markdown_text(text: str) -> str:
    r"""Return a text that a Markdown page shows as it is, on one line: no markup, no HTML, no link, no other column.

    Example:
        >>> markdown_text("a|b <img src=x>\n`c`")
        'a\\|b &lt;img src=x&gt; \\`c\\`'
    """
    plain = re.sub(r"&(?=#?\w+;)", "&amp;", " ".join(text.split("\n")).replace("\r", " "))
    plain = re.sub(r"[`|*]|\\(?=[!-/:-@\[-`{-~])|(?<!\w)_|_(?!\w)", r"\\\g<0>", plain)
    if re.search(r"\][(\[]", plain):  # a link or an image; an interval's brackets stay as they are
        plain = re.sub(r"[\[\]]", r"\\\g<0>", plain)
    return plain.replace("<", "&lt;").replace(">", "&gt;")


def words(
    header: str, texts: "Sequence[Any] | pd.Series[Any]", tones: Sequence[str] = (), notes: Sequence[str] = ()
) -> Column:
    """Return a column of words."""
    rows = zip_longest(texts, tones, notes, fillvalue="")
    cells = [Cell(str(text), None, tone, note) for text, tone, note in rows]
    return Column(header, cells, left=True, fold=not tones)


def numbers(
    header: str,
    values: "Sequence[float | None] | pd.Series[float]",
    form: str = ",.0f",
    scale: float = 1,
    marks: "Sequence[Any] | pd.Series[bool]" = (),
) -> Column:
    """Return a column of numbers.

    Example:
        >>> numbers("never fired, %", [0.125], ".1f", 100).cells[0].text
        '12.5'
    """
    starred = list(marks) or [False] * len(values)
    cells = [
        Cell(DASH if pd.isna(value) else f"{format(scale * value, form)}{' *' if star else ''}", scale * value)
        for value, star in zip((float("nan") if one is None else one for one in values), starred, strict=True)
    ]
    return Column(header, cells)


def shares(header: str, values: "pd.Series[float]", form: str = ".1f") -> Column:
    """Return a column of fractions, printed in per cent."""
    return numbers(header, values, form, 100)


def intervals(
    header: str, low: "pd.Series[float]", high: "pd.Series[float]", form: str = ".1f", scale: float = 100
) -> Column:
    """Return a column of intervals, sorted by their lower end."""
    ends = zip(low, high, strict=True)
    return Column(header, [Cell(interval(a, b, form, scale) if a == a else DASH, a) for a, b in ends])


def interval(low: float, high: float, form: str = "+.2f", scale: float = 100) -> str:
    """Return an interval as text.

    Example:
        >>> interval(-0.01, 0.02)
        '[-1.00, +2.00]'
    """
    return f"[{format(scale * low, form)}, {format(scale * high, form)}]"


def p_value(p: float) -> str:
    """Return a p value to two significant digits.

    Example:
        >>> p_value(0.0312), p_value(1e-9), p_value(1.0)
        ('0.031', '<0.0001', '1')
    """
    return "<0.0001" if p < 1e-4 else f"{p:.2g}"


def _latex_line(cells: Sequence[str]) -> str:
    escaped = (re.sub(r"[\\~^–²%&#$_{}]", lambda one: LATEX.get(one[0], rf"\{one[0]}"), cell) for cell in cells)
    return " & ".join(escaped) + r" \\"
