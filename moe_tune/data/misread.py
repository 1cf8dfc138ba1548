"""What a file holds that its name does not say: cells separated otherwise, an object around the rows."""

import csv
import io
import json
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from moe_tune.base.errors import DataError

SEPARATORS = {";": "';'", ",": "','", "\t": "tabs", "|": "'|'"}
"""What people separate cells with, in words."""
LOOKED_AT = 50
"""Rows that tell what separates the cells of a file."""
SHOWN = 6
"""Keys that are named."""
SHOWN_CHARACTERS = 40


def refuse_other_separator(file: Path, text: str, delimiters: Mapping[str, str]) -> None:
    """Refuse a file whose rows have at least 3 cells each, and the same number, with another separator.

    Args:
        file: The file, whose rows are none by its own separator.
        text: What it holds.
        delimiters: The separator that a file of each suffix has.

    Raises:
        DataError: It is separated otherwise; the message says how, and what mends it.
    """
    own = delimiters[file.suffix]
    for other in (one for one in SEPARATORS if one != own):
        try:
            rows = islice(csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=other), LOOKED_AT)
            widths = {len(cells) for cells in rows}
        except csv.Error:
            continue
        if len(widths) == 1 and (width := widths.pop()) >= 3:
            raise DataError(
                f"expected cells separated by {SEPARATORS[own]} but got {SEPARATORS[other]}, {width} cells a row "
                f"({file}). Hint: {_separated(file, other, delimiters)}"
            )


def no_rows(content: Any, file: Path) -> str:
    """Return the message on a JSON file that holds something else than an array of objects."""
    hint = (
        '[{"text": ...}, ...], or of questions [{"question": ..., "choices": [...], "answer": ...}, ...]; '
        "lines of objects are named .jsonl."
    )
    came = json.dumps(content)[:SHOWN_CHARACTERS]
    if isinstance(content, dict):
        keys = f"{', '.join(map(repr, islice(content, SHOWN)))}{', ...' * (len(content) > SHOWN)}"
        came = f"an object with keys {keys}" if content else "an empty object"
        inside = [name for name, one in content.items() if isinstance(one, list) and one and isinstance(one[0], dict)]
        hint = _inside(file, inside) if inside else hint
    elif isinstance(content, list):
        place = next(number for number, one in enumerate(content) if not isinstance(one, dict))
        came = f"an array with {json.dumps(content[place])[:SHOWN_CHARACTERS]} at [{place}]"
    return f"expected a JSON array of objects, one a row, but got {came} ({file}). Hint: {hint}"


def _separated(file: Path, other: str, delimiters: Mapping[str, str]) -> str:
    for suffix, delimiter in delimiters.items():
        if delimiter == other:
            return f"name it {suffix}."
    name = repr(str(file))
    read = f"list(csv.reader(open({name}, encoding='utf-8-sig', newline=''), delimiter={other!r}))"
    write = f"csv.writer(open({name}, 'w', encoding='utf-8', newline='')).writerows(rows)"
    return f'write it anew with commas: python -c "import csv; rows = {read}; {write}"'


def _inside(file: Path, names: list[str]) -> str:
    if not names[0].isidentifier():  # a command would need its quotes
        return f"write the rows under {names[0]!r} to a file of their own."
    out = f"rows_{names[0]}.json"
    rows = f"json.load(open({str(file)!r}, encoding='utf-8-sig'))[{names[0]!r}]"
    return (
        f"rows are under {' and '.join(map(repr, names))}; write them to a file of their own: "
        f"python -c \"import json; json.dump({rows}, open({out!r}, 'w'))\", then give {out} as the path"
    )
