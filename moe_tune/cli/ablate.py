"""The verb ``ablate``: what happens when experts are masked, dropped, replaced by their mean or forced in."""

import json
import time
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, require
from moe_tune.base.locks import output_folder
from moe_tune.cli.verbs import add_format, parsed_with_fit

SPLITS = ("validation", "train")
QUESTIONS = 1000
"""Questions of an audit, unless told otherwise."""


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--intervention",
        choices=["mask", "drop", "mean", "swap"],
        default="mask",
        help="never chosen (what pruning does), weighed with zero, replaced by its mean, or forced in",
    )
    parser.add_argument("--layers", nargs="+", default=["all"], help="all, last-N, or indices (all)")
    parser.add_argument("--experts", nargs="+", type=int, help="experts of each layer (all)")
    parser.add_argument(
        "--sets", nargs="+", type=str, default=[], metavar="NAME=L:E,E", help="named sets, as 'pair=3:5,2;4:1'"
    )
    parser.add_argument("--scope", choices=["answer", "all"], help="where it happens; pruning is all (answer)")
    parser.add_argument("--split", type=str, default="validation", help="validation or train; never a test split")
    parser.add_argument(
        "--questions", type=int, default=QUESTIONS, metavar="N", help=f"how many, by subject ({QUESTIONS}); 0 is all"
    )
    parser.add_argument("--draws", type=int, default=1000, help="bootstrap draws of the rank correlations (1000)")
    parser.add_argument("--out", type=str, help="folder of the results")
    add_format(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Audit a model or a run by intervention; a first word is the run or a checkpoint."""
    from moe_tune.cli.named_run import run_or_config
    from moe_tune.settings.config_files import config_label

    run, words = run_or_config("ablate", argv)
    host = parsed_with_fit("ablate", add_arguments, words, plugins)
    # Imported here so that --help answers at once.
    from moe_tune.base.memory import peak_memory
    from moe_tune.interventions.audit import AblationAsked, audit
    from moe_tune.interventions.files import plain, write_audit
    from moe_tune.interventions.plan import read_sets
    from moe_tune.interventions.tables import lead, tables_of
    from moe_tune.reports.console import PlainConsole

    given, began = host.settings, time.monotonic()
    require(given.questions >= 0, "a number of questions from 0", given.questions, "--questions", "0 takes all.")
    hint = "what is chosen by an audit may be tested on the others afterwards."
    require(given.split in SPLITS, "validation or train", given.split, "--split", hint)
    require(given.draws >= 100, "at least 100 draws", given.draws, "--draws", "the default is 1000.")
    some = given.experts or []
    require(len(set(some)) == len(some), "different experts", some, "--experts", "name each once.")
    home, name = Path(given.runs_root) / f"{config_label(['fit', *words])}-ablation", config_label(["fit", *words])
    if run is not None:
        home = run.parent.parent if run.parent.name == "checkpoints" else run
        name, home = home.name, home / "ablation"
    out = Path(given.out) if given.out else home / f"{given.intervention}-{given.scope or 'answer'}"
    asked = AblationAsked(
        name, run, given.intervention, _layers(given.layers), given.experts, read_sets(given.sets),
        given.scope or (host.model.scope if run is not None else "answer"), given.split, given.questions or None,
        given.draws,
    )  # fmt: skip
    with output_folder(out):
        found = audit(asked, host, out)
        write_audit(found, out)
    if given.format == "json":
        print(json.dumps(plain(found), indent=2, default=str))
        return 0
    console = PlainConsole()
    console.print(
        f"{found.about['router']} router of {found.about['model']}, {found.about['questions']}", soft_wrap=True
    )
    for table in tables_of(found, short=True).values():
        console.print(table.terminal())
        console.print()
    for sentence in lead(found):
        console.print(sentence)
    console.print(f"files: {out}/ablate.html, .md, .png, .json, *.parquet", soft_wrap=True)
    console.print(f"{time.monotonic() - began:.0f} s, at most {peak_memory() / 2**30:.2f} GiB of memory", style="dim")
    return 0


def _layers(words: list[str]) -> str | list[int]:
    """Return the layers of the command line as ``model.layers`` has them."""
    if len(words) == 1 and not words[0].isdigit():
        return words[0]
    try:
        return [int(word) for word in words]
    except ValueError as fault:
        raise ConfigError(
            f"expected all, last-N or indices but got {' '.join(words)} (--layers). Hint: --layers 2 3."
        ) from fault
