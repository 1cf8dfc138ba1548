"""The verb ``compare``: runs or other programs' logs in, tables and one HTML report out, and to W&B if asked for."""

import hashlib
import os
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import output_folder
from moe_tune.base.uncollected import uncollected
from moe_tune.cli.verbs import parsed

FORMATS = {"latex": "table.tex", "markdown": "table.md", "csv": "table.csv"}
"""Formats that can be printed, each with the file that holds it."""


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    example = "such as runs/nano-IdentityHead-s1-* runs/nano-RetunedHead-s*"
    parser.add_argument(
        "runs", nargs="+", metavar="RUN", help=f"run directories or their names, {example}; one alone is compared with "
        "the pretrained router. Logs of other programs, too, where they hold the same questions: lm-eval's samples "
        "(samples_TASK_DATE.jsonl, or the folder of a task or of mmlu_*), or a table (csv, tsv, jsonl, json, parquet) "
        "with question, choices and answer, and log_probs or correct"
    )  # fmt: skip
    parser.add_argument("--baseline", metavar="RUN", help="run compared against (default: the first RUN)")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for the report (default: compare/ beside the last run directory; among logs alone ./compare/)",
    )
    parser.add_argument(
        "--runs_root", type=Path, default=Path("runs"), help="folder where runs are looked for by name (default: runs)"
    )
    parser.add_argument(
        "--bootstrap", action="store_true", help="add the interval of the paired cluster bootstrap (10,000 draws, BCa)"
    )
    parser.add_argument("--format", choices=FORMATS, help="print the table in this format alone, for a paper or a pipe")
    parser.add_argument("--wandb", action="store_true", help="log table and report to W&B; offline without a login")
    project = os.environ.get("WANDB_PROJECT") or "moe_tune"
    parser.add_argument("--wandb_project", default=project, metavar="NAME", help=f"W&B project (default: {project})")
    parser.add_argument("--wandb_group", metavar="NAME", help="W&B group (default: WANDB_RUN_GROUP, else none)")


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Compare runs and logs and print the tables and where the report lies."""
    given = parsed("compare", add_arguments, argv)
    with uncollected():  # imported here so that --help answers at once
        from moe_tune.compare.found_arm import found_arm
        from moe_tune.compare.outside import is_outside

    runs = [found_arm(name, given.runs_root) for name in given.runs]
    baseline = found_arm(given.baseline, given.runs_root) if given.baseline else runs[0]
    others = list(dict.fromkeys(path for path in runs if path.resolve() != baseline.resolve()))
    if not others and (given.baseline or len(runs) > 1):
        times = len(runs) + bool(given.baseline)
        raise ConfigError(
            f"expected a baseline and another run but got one run {'twice' if times == 2 else f'{times} times'}: "
            f"{baseline} (compare). Hint: python -m moe_tune compare BASELINE_RUN OTHER_RUN, or "
            f"`python -m moe_tune compare {given.runs[0]}` against the pretrained router."
        )
    if not others and is_outside(baseline):
        raise ConfigError(
            f"expected another arm but got one log alone: {baseline} (compare). "
            f"Hint: python -m moe_tune compare {given.runs[0]} OTHER, a log or a run of the same questions."
        )
    out = given.out or default_out(baseline, others)
    with output_folder(out):
        _compare(given, baseline, others, out)
    return 0


def _compare(given: Any, baseline: Path, others: list[Path], out: Path) -> None:
    with uncollected():
        from moe_tune.compare.pretrained import compare_with_pretrained
        from moe_tune.compare.report import compare_runs
        from moe_tune.compare.terminal import render_terminal
        from moe_tune.reports.console import PlainConsole

    logger = None
    if given.wandb:
        from moe_tune.tracking.wandb_logger import RouterWandbLogger

        # Before the work: a fault in a variable shall not be told after it.
        named = {"project": given.wandb_project, "group": given.wandb_group}
        logger = RouterWandbLogger(**named, name=out.name, save_dir=str(out)).as_job("compare")
    if others:
        comparison = compare_runs(baseline, others, out, bootstrap=given.bootstrap)
    else:
        comparison = compare_with_pretrained(baseline, out, bootstrap=given.bootstrap)
    if given.format:
        print((out / FORMATS[given.format]).read_text(encoding="utf-8"), end="")
    console = PlainConsole(stderr=bool(given.format))
    if not given.format:
        console.print(render_terminal(comparison))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    if logger is not None:
        from moe_tune.compare.wandb_report import send_comparison

        console.print(f"W&B: {send_comparison(logger, comparison, out)}", soft_wrap=True)


def default_out(baseline: Path, others: list[Path]) -> Path:
    """Return the folder of a comparison: ``compare/<baseline>-<8 hex of the arms>``, the same for the same arms.

    It lies beside the last run, or in the current folder where every arm is a log, whose folders stay as they are.
    """
    from moe_tune.compare.outside import is_outside

    if not others:
        return baseline.resolve().parent / "compare" / f"{baseline.resolve().name}-pretrained"
    arms = (baseline, *others)
    runs = [path for path in arms if not is_outside(path)]
    names = "\n".join(path.resolve().name if path in runs else str(path.resolve()) for path in arms)
    digest = hashlib.sha256(names.encode()).hexdigest()[:8]
    place = runs[-1].resolve().parent if runs else Path()
    name = baseline.resolve().stem if baseline.is_file() else baseline.resolve().name
    return place / "compare" / f"{name}-{digest}"
