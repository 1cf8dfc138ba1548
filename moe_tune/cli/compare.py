"""The ``compare`` verb: finished run directories in, tables and one HTML report out, and to W&B if asked for."""

import argparse
import hashlib
import os
from pathlib import Path

from moe_tune.base.errors import ConfigError


def main(argv: list[str]) -> int:
    """Compare run directories and print the tables and where the report lies.

    Args:
        argv: Arguments after the verb.

    Returns:
        The exit code, 0.

    Raises:
        ConfigError: There are fewer than two runs, or W&B is asked for and a ``WANDB_*`` variable has a fault.
        DataError: A run is unfinished or incomplete, or the runs answered different questions.
    """
    options = build_parser().parse_args(argv)
    baseline, others = _split_runs(options.runs, options.baseline)
    out = options.out or default_out(baseline, others)
    # Imported here so that --help answers at once.
    from rich.console import Console

    from moe_tune.compare.report import compare_runs
    from moe_tune.compare.terminal import render_terminal

    logger = None
    if options.wandb:
        from moe_tune.tracking.wandb_logger import RouterWandbLogger

        # Before the work: a fault in a variable shall not be told after it.
        named = {"project": options.wandb_project, "group": options.wandb_group}
        logger = RouterWandbLogger(**named, name=out.name, save_dir=str(out)).as_job("compare")
    comparison = compare_runs(baseline, others, out)
    console = Console()
    console.print(render_terminal(comparison))
    console.print(f"report: {out / 'report.html'}", soft_wrap=True)
    if logger is not None:
        from moe_tune.compare.wandb_report import send_comparison

        console.print(f"W&B: {send_comparison(logger, comparison, out)}", soft_wrap=True)
    return 0


def build_parser() -> argparse.ArgumentParser:
    """Return the verb's argument parser."""
    parser = argparse.ArgumentParser(
        prog="python -m moe_tune compare",
        description="Compare finished runs with a baseline, paired question by question.",
        epilog="example: python -m moe_tune compare runs/nano-IdentityHead-s1-* runs/nano-RetunedHead-s*",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directories, two or more")
    parser.add_argument("--baseline", type=Path, metavar="RUN", help="run compared against (default: the first RUN)")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="folder for the report (default: compare/ beside the last RUN)"
    )
    parser.add_argument("--wandb", action="store_true", help="log table and report to W&B; offline without a login")
    project = os.environ.get("WANDB_PROJECT") or "moe_tune"
    parser.add_argument("--wandb_project", default=project, metavar="NAME", help=f"W&B project (default: {project})")
    parser.add_argument("--wandb_group", metavar="NAME", help="W&B group (default: WANDB_RUN_GROUP, else none)")
    return parser


def default_out(baseline: Path, others: list[Path]) -> Path:
    """Return ``compare/<baseline>-<8 hex of the runs>`` beside the last run: the same runs, the same folder.

    Args:
        baseline: Run directory of the baseline.
        others: The other run directories.
    """
    names = "\n".join(path.resolve().name for path in (baseline, *others))
    digest = hashlib.sha256(names.encode()).hexdigest()[:8]
    return others[-1].resolve().parent / "compare" / f"{baseline.resolve().name}-{digest}"


def _split_runs(runs: list[Path], baseline: Path | None) -> tuple[Path, list[Path]]:
    chosen = baseline or runs[0]
    others = list(dict.fromkeys(path for path in runs if path.resolve() != chosen.resolve()))
    if not others:
        raise ConfigError(
            f"expected a baseline and at least one other run but got only {chosen} (compare). "
            f"Hint: python -m moe_tune compare BASELINE_RUN OTHER_RUN."
        )
    return chosen, others
