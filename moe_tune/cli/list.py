"""The verb ``list``: what can be plugged in, with one line and the paper each."""

import argparse
import json

from moe_tune.settings.listing import KINDS


def main(argv: list[str]) -> int:
    """Print the classes of a plug-in folder and return the exit code.

    Args:
        argv: Arguments after the verb.
    """
    parser = argparse.ArgumentParser(prog="moe_tune list", description="Name what can be plugged in.")
    parser.add_argument("kind", choices=sorted(KINDS), help="what to list")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="text for people, json for programs")
    given = parser.parse_args(argv)
    entries = KINDS[given.kind]()
    if given.format == "json":
        print(json.dumps(entries, indent=2))
        return 0
    width = max(len(entry["name"]) for entry in entries)
    for entry in entries:
        print(f"{entry['name']:<{width}}  {entry['summary']}")
        if entry["reference"]:
            print(f"{'':<{width}}  {entry['reference']}")
    return 0
