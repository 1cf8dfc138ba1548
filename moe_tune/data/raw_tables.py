"""Files to rows, before anybody knows what their columns mean: CSV, TSV, JSON lines, JSON arrays, parquet."""

import csv
import io
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError
from moe_tune.data.misread import no_rows, refuse_other_separator
from moe_tune.data.parquet_rows import parquet_rows

DELIMITERS = {".csv": ",", ".tsv": "\t"}
SUFFIXES = (".jsonl", ".parquet", ".csv", ".tsv", ".json")

PlacedRow = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True, slots=True)
class RawTable:
    """A file's rows by column, each with the place a person can find it again; ``columns`` are all that occur."""

    file: Path
    columns: tuple[str, ...]
    rows: Iterable[PlacedRow]


def read_table(file: Path) -> RawTable:
    """Return a file of named columns: JSON lines, a JSON array or parquet.

    Raises:
        DataError: It is damaged, or no such file.
    """
    if file.suffix == ".parquet":
        rows = ((f"{file.name}[{number}]", values) for number, values in enumerate(parquet_rows(file)))
        first = next(rows, None)
        return RawTable(file, tuple(first[1]) if first else (), rows if first is None else chain([first], rows))
    placed = list(_read_jsonl(file) if file.suffix == ".jsonl" else _read_array(file))
    return RawTable(file, tuple(dict.fromkeys(name for _, values in placed for name in values)), placed)


def read_cells(file: Path, least: int = 3) -> Iterator[tuple[str, list[str]]]:
    """Yield place and cells of each row of a CSV or TSV file, a header as any other row; a row has some cells at least.

    Raises:
        DataError: It is no UTF-8, a quote is broken, or a row has another number of cells than the first.
    """
    # newline="" keeps line breaks inside quoted cells as they are.
    text = read_text(file)
    reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=DELIMITERS[file.suffix])
    width, line = 0, 1
    try:
        for cells in reader:
            width = width or len(cells)
            if len(cells) != width or width < least:
                refuse_other_separator(file, text, DELIMITERS)
                named = " (question, choices, answer)" if least == 3 else ""
                raise DataError(
                    f"expected {max(width, least)} cells{named} but got {len(cells)} ({file}:{line}). "
                    "Hint: quote cells that hold a comma or a line break."
                )
            yield f"{file.name}:{line}", cells
            line = reader.line_num + 1
    except csv.Error as error:
        refuse_other_separator(file, text, DELIMITERS)
        raise DataError(
            f"expected CSV but got: {error} ({file}:{line}). Hint: check the quotes of that row."
        ) from error


def read_text(file: Path) -> str:
    """Return what a file of text holds, without a byte order mark.

    Raises:
        DataError: It is no UTF-8.
    """
    data = file.read_bytes()
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(
            f"expected UTF-8 but got the byte 0x{data[error.start]:02x} ({file}:{line}). "
            "Hint: convert the file, for example with iconv -t UTF-8."
        ) from error


def _read_jsonl(file: Path) -> Iterator[PlacedRow]:
    lines = read_text(file).split("\n")
    # One line break ends the file; any other empty line is a broken one.
    for number, line in enumerate(lines[:-1] if lines[-1] == "" else lines, start=1):
        try:
            values = _loads(line)
        except (ValueError, RecursionError) as error:
            raise DataError(
                f"expected a JSON object but got: {error} ({file}:{number}). Hint: one complete object per line."
            ) from error
        if not isinstance(values, dict):
            raise DataError(
                f"expected a JSON object but got {line[:40]!r} ({file}:{number}). Hint: one object per line."
            )
        yield f"{file.name}:{number}", values


def _read_array(file: Path) -> Iterator[PlacedRow]:
    try:
        rows = _loads(read_text(file))
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"expected a JSON array but got: {error} ({file}). Hint: lines of objects are named .jsonl."
        ) from error
    if not isinstance(rows, list) or not all(isinstance(one, dict) for one in rows):
        raise DataError(no_rows(rows, file))
    yield from ((f"{file.name}[{number}]", values) for number, values in enumerate(rows))


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_unique_keys, parse_constant=_refuse_constant)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        raise ValueError(f"a key twice among {[key for key, _ in pairs]}")
    return values


def _refuse_constant(name: str) -> None:
    raise ValueError(f"the constant {name}, which JSON does not have")
