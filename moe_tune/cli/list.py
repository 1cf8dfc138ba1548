"""The verb ``list``: what can be plugged in, with one line and the paper each; and the runs of a folder."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from moe_tune.cli.verbs import add_format, parsed
from moe_tune.settings.listing import KINDS, entries

RUNS = "runs"


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("kind", choices=sorted((*KINDS, RUNS)), help="what to list")
    parser.add_argument("--runs_root", type=Path, default=Path("runs"), help="folder of the runs to list")
    add_format(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Print the classes of a plug-in folder, or the runs of a folder."""
    given = parsed("list", add_arguments, argv)
    if given.kind == RUNS:
        return _print_runs(given.runs_root, given.format)
    found = entries(given.kind)
    if given.format == "json":
        print(json.dumps(found, indent=2))
        return 0
    width = max(len(entry["name"]) for entry in found)
    for entry in found:
        print(f"{entry['name']:<{width}}  {entry['summary']}")
        if entry["reference"]:
            print(f"{'':<{width}}  {entry['reference']}")
    return 0


def _print_runs(root: Path, form: str) -> int:
    # Imported here so that the other kinds answer at once.
    from moe_tune.compare.run_list import as_table, listed_runs
    from moe_tune.reports.console import PlainConsole

    found = listed_runs(root)
    if form == "json":
        print(json.dumps([asdict(one) for one in found], indent=2))
    elif found:
        PlainConsole().print(as_table(found).terminal())
    else:
        print(f"no runs in {root}. Hint: python -m moe_tune fit --config configs/nano.yaml makes one.")
    return 0
