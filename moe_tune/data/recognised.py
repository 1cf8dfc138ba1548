"""From files to rows of question, subject, choices and answer, whatever the columns; and one line on what they are."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.data.folder_layout import SplitFile
from moe_tune.data.formats.format import BadRowError, LeftOutError, QuestionFormat, Reading, fold
from moe_tune.data.formats.named import NamedColumns
from moe_tune.data.formats.values import as_text
from moe_tune.data.formats.wrapped import WRAPPERS, unwrapped, wrapper_of
from moe_tune.data.protocol import AUXILIARY
from moe_tune.data.raw_tables import DELIMITERS, RawTable, read_cells, read_table
from moe_tune.data.source import RawRow

NO_SUBJECT = "general_knowledge"
"""The subject of questions that have none."""
SHOWN = 6
"""Ignored columns that are named."""
HENDRYCKS = ("question", "choices", "answer")
"""The columns of a CSV file without a header, its choices taken together."""


class QuestionReader:
    """Reads the files of splits and recognises what they are.

    Args:
        reading: How rows are to be read.

    Attributes:
        notes: What was recognised and what was left out, a line each.
    """

    def __init__(self, reading: Reading) -> None:
        self.reading = reading
        self.named = None if reading.columns is None else NamedColumns(reading.columns)
        self.formats = [one() for one in concrete_subclasses(QuestionFormat).values()]
        self.notes: dict[str, None] = {}
        self._changed: Counter[str] = Counter()

    def rows(self, files: Sequence[SplitFile], split: str) -> Iterator[RawRow]:
        """Yield the rows of a split in the order of its files.

        Raises:
            DataError: A file is damaged, its columns are not known, or its answers can be read in two ways.
        """
        left_out: Counter[str] = Counter()
        self._changed.clear()
        rows = 0
        for file in files:
            table = self._cells(file.path) if file.path.suffix in DELIMITERS else read_table(file.path)
            for one in self.table(table, file, split):
                rows += 1
                if isinstance(one, LeftOutError):
                    left_out[str(one)] += 1
                else:
                    yield one
        for words, count in self._changed.items():
            self.notes[f"{split}: {count} of {rows} rows with {words}"] = None
        if left_out:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in left_out.most_common())
            self.notes[f"{split}: {left_out.total()} of {rows} rows left out: {reasons}"] = None

    def _cells(self, file: Path) -> RawTable:
        # A first row that names no known columns is a question, laid out as by Hendrycks et al.
        cells = read_cells(file)
        header = next(cells, ("", list[str]()))[1]
        folded = [fold(one) for one in header]
        if self.named is None and self.layout(folded) is None:
            return RawTable(file, HENDRYCKS, _without_header(file))
        if twice := sorted(name for name, count in Counter(folded).items() if count > 1 and name):
            raise DataError(f"expected each column once but got {twice} twice ({file}:1). Hint: rename one.")
        return RawTable(file, tuple(header), ((where, dict(zip(header, one, strict=True))) for where, one in cells))

    def table(self, table: RawTable, file: SplitFile, split: str = "test") -> Iterator[RawRow | LeftOutError]:
        """Yield the rows of a table, and why one is left out.

        Raises:
            DataError: Its columns are not known, or its answers can be read in two ways.
        """
        rows, columns, wrapped = table.rows, table.columns, ""
        if (wrapper := wrapper_of(columns)) is not None:
            rows = inner = list(unwrapped(rows, wrapper))
            columns, wrapped = tuple(dict.fromkeys(name for _, one in inner for name in one)), WRAPPERS[wrapper]
        if columns is HENDRYCKS:
            wrapped = "CSV without a header, "
        if not columns:
            return
        folded = {fold(name): name for name in reversed(columns)}
        layout = self.named or self.layout(folded)
        if layout is None:
            raise DataError(
                f"expected columns such as question, choices and answer but got {list(columns)} ({file.path}). "
                "Hint: say which is which, as in --data.source.columns "
                "'{question: Q, choices: [right, wrong 1, wrong 2], answer: =A, subject: =history}' "
                "(of a further test set NAME: --data.test_sources.NAME.columns)."
            )
        used = layout.used(folded, str(file.path))
        self._say(layout, used, columns, file, wrapped)
        numerals = doubtful = 0
        for where, row in rows:
            cells = {name: row.get(folded[column]) for name, column in used.items()}
            try:
                values = layout.read(cells, self.reading)
            except LeftOutError as reason:
                yield reason
                continue
            except BadRowError as reason:
                yield RawRow(where, {}, str(reason))
                continue
            given = cells.get("answer")
            # A number beside choices that are texts has always been an index.
            words = given.strip() if isinstance(given, str) else ""
            if isinstance(given, int | float) and _holds_numbers(cells, layout):
                words = str(int(given))
            if type(values["answer"]) is int and words:
                numerals += 1
                doubtful += isinstance(values["choices"], list) and words in values["choices"]
            own = cells.get(str(layout.subject), file.subject or NO_SUBJECT)
            subject = as_text(values.get("subject", own))
            if (changed := values.pop("changed", None)) is not None:
                self._changed[changed] += 1
            unnamed = subject == "" and split == "train"  # MMLU's auxiliary split
            yield RawRow(where, {**values, "subject": AUXILIARY if unnamed else subject})
        if self.reading.answers_from is None and numerals > 1 and numerals == doubtful:
            raise DataError(
                f"expected answers that are letters or indices but each of {numerals} is also the text of a choice "
                f"({file.path}). Hint: write letters; or say --data.source.answers_from 0 (or 1), if they are indices."
            )

    def layout(self, folded: Iterable[str]) -> QuestionFormat | None:
        """Return the layout of columns of these folded names; ``None`` if it is none that is known."""
        there = list(folded)
        fitting = [one for one in self.formats if one.fits(there)]
        return max(fitting, key=lambda one: len(one.columns), default=None)

    def _say(
        self,
        layout: QuestionFormat | NamedColumns,
        used: Mapping[str, str],
        columns: Sequence[str],
        file: SplitFile,
        wrapped: str,
    ) -> None:
        taken = set(used.values())
        own = [name.strip() for name in columns if fold(name) in taken]
        extra = [name.strip() or "(unnamed)" for name in columns if fold(name) not in taken]
        words = [f"read as {wrapped}{layout.name}: {', '.join(own)}"]
        if not layout.tells_subject(used):
            words.append("subject by the file's name" if file.subject else f"no subject: {NO_SUBJECT}")
        words += [layout.note] if layout.note else []
        if extra:
            more = f" and {len(extra) - SHOWN} more" if len(extra) > SHOWN else ""
            words.append(f"ignored: {', '.join(extra[:SHOWN])}{more}")
        self.notes["; ".join(words)] = None


def _holds_numbers(cells: Mapping[str, Any], layout: QuestionFormat | NamedColumns) -> bool:
    choices = (cell for name, cell in cells.items() if name not in ("answer", layout.subject))
    return any(type(one) is int for cell in choices for one in (cell if isinstance(cell, list) else [cell]))


def _without_header(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for where, cells in read_cells(file):
        if len(cells) < 4:
            raise DataError(
                f"expected 4 cells (question, choices, answer) but got {len(cells)} ({file.parent}/{where}). "
                "Hint: quote cells that hold a comma or a line break."
            )
        yield where, dict(zip(HENDRYCKS, (cells[0], cells[1:-1], cells[-1]), strict=True))
