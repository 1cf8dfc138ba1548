"""Tables for readers: columns as text beside the value they are sorted by."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd

ASSOCIATIONAL = "associational"
"""The label of every table of routing statistics."""
DASH = "–"
"""Printed where there is no value."""


@dataclass(frozen=True, slots=True)
class ReportColumn:
    """One column.

    Attributes:
        header: Its heading, with the unit.
        texts: What is printed, row by row.
        values: What the rows are sorted by; ``None`` for a column of words, ``nan`` where there is no value.
    """

    header: str
    texts: list[str]
    values: list[float] | None = None


@dataclass(frozen=True, slots=True)
class ReportTable:
    """One table at one setting.

    Attributes:
        caption: What its figures mean and how they were made.
        columns: Its columns, of one length.
        evidence: What kind of evidence the figures are.
    """

    caption: str
    columns: list[ReportColumn]
    evidence: str = ASSOCIATIONAL

    def rows(self) -> Iterator[list[tuple[str, float | None]]]:
        """Yield the cells of each row: text, and the value to sort by."""
        for row in range(len(self.columns[0].texts)):
            yield [(column.texts[row], column.values[row] if column.values else None) for column in self.columns]


def words(header: str, series: "pd.Series[str]") -> ReportColumn:
    """Return a column of words.

    Args:
        header: Its heading.
        series: Its values.
    """
    return ReportColumn(header, [str(value) for value in series])


def counts(header: str, series: "pd.Series[int]") -> ReportColumn:
    """Return a column of whole numbers.

    Args:
        header: Its heading.
        series: Its values.
    """
    return _column(header, series.astype(float), "{:,.0f}")


def numbers(header: str, series: "pd.Series[float]", digits: int) -> ReportColumn:
    """Return a column of numbers.

    Args:
        header: Its heading.
        series: Its values.
        digits: Digits after the point, at least 0.
    """
    return _column(header, series, f"{{:,.{digits}f}}")


def shares(header: str, series: "pd.Series[float]") -> ReportColumn:
    """Return a column of fractions, printed in per cent with one digit after the point.

    Args:
        header: Its heading.
        series: Its values, 0 to 1.

    Example:
        >>> shares("never fired, %", pd.Series([0.125])).texts
        ['12.5']
    """
    return _column(header, 100 * series.astype(float), "{:.1f}")


def small_shares(header: str, series: "pd.Series[float]") -> ReportColumn:
    """Return a column of fractions, printed in per cent with two digits that count.

    Args:
        header: Its heading.
        series: Its values, 0 to 1.
    """
    return _column(header, 100 * series.astype(float), "{:.2g}")


def p_values(header: str, series: "pd.Series[float]", starred: "pd.Series[bool] | None" = None) -> ReportColumn:
    """Return a column of p values.

    Args:
        header: Its heading.
        series: Its values, 0 to 1.
        starred: Rows that get a star.
    """
    column = _column(header, series, "{:.2g}")
    if starred is None:
        return column
    texts = [f"{text} *" if star else text for text, star in zip(column.texts, starred, strict=True)]
    return ReportColumn(header, texts, column.values)


def intervals(
    header: str, low: "pd.Series[float]", high: "pd.Series[float]", scale: float = 100, digits: int = 1
) -> ReportColumn:
    """Return a column of intervals, sorted by their lower end.

    Args:
        header: Its heading.
        low: Lower ends.
        high: Upper ends.
        scale: Factor on both; the default prints fractions in per cent.
        digits: Digits after the point, at least 0.
    """
    ends = zip(scale * low.astype(float), scale * high.astype(float), strict=True)
    texts = [DASH if pd.isna(a) else f"[{a:.{digits}f}, {b:.{digits}f}]" for a, b in ends]
    return ReportColumn(header, texts, low.astype(float).tolist())


def _column(header: str, series: "pd.Series[float]", form: str) -> ReportColumn:
    values = series.astype(float).tolist()
    return ReportColumn(header, [DASH if pd.isna(value) else form.format(value) for value in values], values)
