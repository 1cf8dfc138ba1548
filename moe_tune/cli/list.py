"""The verb ``list``: what can be plugged in, with one line and the paper each."""

import json
from typing import Any

from moe_tune.cli.verbs import add_format, parsed
from moe_tune.settings.listing import KINDS, entries


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("kind", choices=sorted(KINDS), help="what to list")
    add_format(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Print the classes of a plug-in folder."""
    given = parsed("list", add_arguments, argv)
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
