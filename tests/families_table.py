"""Write what ``list families`` prints, and its page: ``make families``."""

import json
from pathlib import Path

from moe_tune.models.families import NOT_SERVED, found_types
from moe_tune.models.family_row import TABLE, family_row

PAGE = Path(__file__).parents[1] / "docs" / "families.md"
MARK = "<!-- table -->\n"


def page(rows):
    """Return the page with the table of these rows."""
    before, _, _ = PAGE.read_text(encoding="utf-8").partition(MARK)
    lines = ["| model type | weights of the chosen | decides by | answer path |", "|:--|:--|:--|:--|"]
    lines += [f"| `{row['model_type']}` | {row['weights']} | {row['decides']} | {row['answer_path']} |" for row in rows]
    lines += ["", "Not served:", "", *(f"- `{name}`: {reason}." for name, reason in NOT_SERVED.items())]
    return before + MARK + "\n".join(lines) + "\n"


if __name__ == "__main__":
    found = [family_row(one) for one in found_types()]
    TABLE.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    PAGE.write_text(page(found), encoding="utf-8")
