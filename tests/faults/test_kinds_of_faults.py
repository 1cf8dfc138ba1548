"""The page that explains the kinds of faults, beside the cases that are tried."""

import re
from pathlib import Path

from table import all_cases

PAGE = Path(__file__).parents[2] / "docs" / "faults.md"


def explained():
    """Return the kinds that the page's tables name, ranges and lists taken apart."""
    kinds = set()
    for cell in re.findall(r"^\| ([^|]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE):
        if found := re.fullmatch(r"([A-Z])(\d+) to \1(\d+)", cell):
            kinds.update(f"{found[1]}{number}" for number in range(int(found[2]), int(found[3]) + 1))
        else:
            kinds.update(cell.replace("`", "").split(", "))
    return kinds - {"kind", "---"}


def test_page_explains_every_kind_and_no_other():
    assert explained() == {case.kind for case in all_cases()}
