"""The verb ``lm-eval``: lm-evaluation-harness's tasks on base and tuned models, its samples written for ``compare``."""

from pathlib import Path
from typing import Any

from moe_tune.base.locks import output_folder
from moe_tune.cli.verbs import parsed
from moe_tune.harness.installed import require_lm_eval
from moe_tune.harness.options import add_lm_eval_options, device_of, lm_eval_config


def add_arguments(parser: Any) -> None:
    """Add the verb's options, and those of lm-eval."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directories, their names, or checkpoints")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder of lm-eval's results and samples (default: lm_eval/ in the run, or beside the last of several)",
    )
    parser.add_argument(
        "--runs_root", type=Path, default=Path("runs"), help="folder where runs are looked for by name (default: runs)"
    )
    add_lm_eval_options(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Evaluate the base model and each run, print a table and the commands that compare the samples."""
    require_lm_eval()
    given = parsed("lm-eval", add_arguments, argv)
    # Imported here so that --help answers at once.
    from moe_tune.base.found import found_checkpoint
    from moe_tune.reports.console import PlainConsole
    from moe_tune.settings.opened_runs import runs_to_open
    from moe_tune.settings.quiet import quieten

    quieten()
    device = device_of(given.device) if given.device else None
    found = [found_checkpoint(name, given.runs_root) for name in given.runs]
    runs = runs_to_open(found, plugins)
    home = runs[-1].home
    out = given.out or (home if len(runs) == 1 else home.parent) / "lm_eval"
    config = lm_eval_config(given, out)

    from moe_tune.harness.evaluation import evaluate_runs
    from moe_tune.harness.table import compare_commands, metrics_table

    with output_folder(out):
        arms = evaluate_runs(runs, config, out, device or runs[0].device)
    table = metrics_table(arms)
    console = PlainConsole()
    console.print(table.terminal(), table.caption, soft_wrap=True)
    console.print(f"results and samples: {out}", soft_wrap=True)
    for command in compare_commands(arms):
        console.print(f"next: {command}", soft_wrap=True)
    return 0
