"""The verb ``cache``: which prompt caches there are, what is in one, and away with those nobody needs."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from moe_tune.cli.verbs import add_format, parsed, parsed_with_fit

if TYPE_CHECKING:
    from moe_tune.answer_path.kept import KeptCache


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the verb's actions and their options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="show all caches and unfinished builds")
    add_format(listing)
    info = actions.add_parser("info", help="show everything known about one")
    info.add_argument("key", metavar="KEY", help="key of a cache, or how it begins")
    clean = actions.add_parser("clean", help="remove caches")
    clean.add_argument("keys", nargs="*", metavar="KEY", help="key of a cache to remove, or how it begins")
    clean.add_argument("--all", action="store_true", help="remove every cache and unfinished build")
    clean.add_argument("--unfinished", action="store_true", help="remove unfinished builds and damaged caches")
    clean.add_argument("--older_than", type=float, metavar="DAYS", help="only what was not used for so many days")
    for action in (listing, info, clean):
        action.add_argument(
            "--folder", metavar="DIR", help="where the caches are (default: model.answer_path.folder's)"
        )
    actions.add_parser("build", help="build the caches that a configuration will use: --config FILE ...")


def add_build_arguments(parser: Any) -> None:
    """Add the options of ``cache build``."""
    parser.add_argument("--splits", nargs="+", type=str, help="which splits; all of them if left out")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Do one of ``list``, ``info``, ``clean`` and ``build``."""
    if argv[:1] == ["build"]:
        from moe_tune.settings.cache_build import NEUTRAL, build_caches

        fit = parsed_with_fit("cache build", add_build_arguments, [*argv[1:], *NEUTRAL], plugins)
        build_caches(fit, fit.settings.splits)
        return 0
    given = parsed("cache", add_arguments, argv)
    # Imported here so that --help answers at once.
    from moe_tune.answer_path.kept import cleaned, folders_of, kept_caches
    from moe_tune.answer_path.store import cache_root

    root = cache_root(given.folder)
    kept = kept_caches(root)
    if given.action == "info":
        one = folders_of(kept, given.key)[0]
        print(json.dumps(one.record or one.summary(), indent=2, ensure_ascii=False))
    elif given.action == "clean":
        for line in cleaned(root, kept, given.keys, given.all, given.unfinished, given.older_than):
            print(line)
    elif given.format == "json":
        print(json.dumps([one.summary() for one in kept], indent=2, ensure_ascii=False))
    else:
        _print_table(root, kept)
    return 0


def _print_table(root: Path, kept: "list[KeptCache]") -> None:
    from rich.filesize import decimal

    from moe_tune.reports.console import PlainConsole
    from moe_tune.reports.table import Cell, Column, Table

    rows = []
    for one in kept:
        says = one.summary()
        cells = [f"({one.state})", *[""] * 4]
        if one.record:
            layers = f"{says['first_layer']}-{says['layers'] - 1}"
            protocol = f"{says['protocol']}, {says['few_shot']}-shot"
            cells = [str(says["model"]), says["split"], protocol, f"{says['questions']:,}", layers]
        cells += [decimal(one.bytes), (says["created"] or "")[:10], says["last_used"][:10]]
        rows.append([one.key, *cells])
    names = ("key", "model", "split", "protocol", "questions", "layers", "size", "created", "last used")
    columns = [
        Column(name, [Cell(row[place]) for row in rows], left=name not in ("questions", "size"), fold=True)
        for place, name in enumerate(names)
    ]
    console = PlainConsole()
    console.print(Table(columns).terminal())
    total = decimal(sum(one.bytes for one in kept))
    console.print(f"{len(kept)} in {root}, {total}", soft_wrap=True, highlight=False)
