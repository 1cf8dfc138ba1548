"""The verb ``grid``: many settings of a head, or many checkpoints, in one pass over the validation questions."""

import argparse
import json
import re
from dataclasses import asdict
from itertools import product
from pathlib import Path

from rich.console import Console
from rich.table import Table

from moe_tune.base.errors import ConfigError
from moe_tune.runs.checkpoint import CONFIG, RouterCheckpointIO, checked_folder
from moe_tune.settings.quiet import quieten
from moe_tune.settings.settings_cli import SettingsCLI
from moe_tune.studies.grid import Outcomes, Point, refuse_lora, run_grid

VARIED = re.compile(r"(model\.(?:head|layers)[\w.]*)=(.+)")


def main(argv: list[str], plugins: dict[str, str] | None = None) -> int:
    """Evaluate a grid, print its table and return 0.

    Args:
        argv: Arguments after the verb; what is not the verb's own is a fit's.
        plugins: sha256 of the user's plug-in files, by path.

    Raises:
        ConfigError: Nothing is varied, or something other than the head and its layers.
    """
    parser = argparse.ArgumentParser(
        prog="moe_tune grid",
        description="Evaluate many heads in one pass over the validation questions; nothing is trained, and the test "
        "split is not read. Everything else is as for fit.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--vary", action="append", default=[], metavar="KEY=A,B,C", help="model.head.tau=0.5,0.7,1; may be repeated"
    )
    parser.add_argument("--checkpoints", nargs="+", default=[], type=Path, help="checkpoints to evaluate beside them")
    parser.add_argument("--format", choices=["text", "json"], default="text", help="text for people, json for programs")
    given, rest = parser.parse_known_args(argv)
    quieten()
    host = SettingsCLI(rest, plugins)
    points = [*_varied(given.vary, rest, plugins), *_trained(given.checkpoints, plugins)]
    if not points:
        raise ConfigError("expected --vary or --checkpoints but got neither. Hint: --vary model.head.tau=0.5,0.7,1.")
    if host.model.scope != "answer":
        raise ConfigError(
            f"expected heads at scope answer but got {host.model.scope!r} (model.scope). "
            "Hint: experiment compares heads at other scopes."
        )
    trainer = host.trainer_for(limit_val_batches=host.settings.trainer.limit_val_batches)
    outcomes = run_grid(host.model, host.datamodule, points, trainer)
    if given.format == "json":
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        _print(outcomes)
    return 0


def _varied(settings: list[str], rest: list[str], plugins: dict[str, str] | None) -> list[Point]:
    axes = []
    for setting in settings:
        match = VARIED.fullmatch(setting)
        if match is None:
            raise ConfigError(
                f"expected model.head... or model.layers, = and values with commas but got {setting!r} (--vary). "
                "Hint: --vary model.head.tau=0.5,0.7,1; what needs training is for experiment."
            )
        axes.append([f"{match[1]}={value}" for value in match[2].split(",")])
    points = []
    for values in product(*axes) if axes else ():
        model = SettingsCLI([*rest, *(f"--{value}" for value in values)], plugins).model
        label = ", ".join(value.removeprefix("model.").removeprefix("head.") for value in values)
        points.append(Point(label, model.head, model.layer_choice))
    return points


def _trained(checkpoints: list[Path], plugins: dict[str, str] | None) -> list[Point]:
    points = []
    for path in checkpoints:
        folder = checked_folder(path)
        model = SettingsCLI(["--config", str(folder / CONFIG)], plugins).model
        if model.scope != "answer":
            raise ConfigError(
                f"expected checkpoints of scope answer but got {model.scope!r} ({path}). "
                "Hint: leave it out; experiment compares heads at other scopes."
            )
        refuse_lora(model, str(path))
        label = folder.parent.parent.name if folder.parent.name == "checkpoints" else folder.name
        kept = RouterCheckpointIO().load_checkpoint(folder)
        seen = frozenset(kept.get("calibrated_on", ()))
        points.append(
            Point(label, model.head, model.layer_choice, kept["state_dict"], kept["base"]["fingerprint"], seen)
        )
    return points


def _print(outcomes: list[Outcomes]) -> None:
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("head", overflow="fold")
    for name in ("acc. %", "diff", "95 % interval", "decision", "entropy", "never %"):
        table.add_column(name, justify="left" if name == "decision" else "right", no_wrap=True)
    for one in outcomes:
        numbers, result = one.numbers, one.result
        compared = ["", "", "baseline"]
        if result is not None:
            low, high = (100 * bound for bound in result.ci95)
            compared = [f"{100 * result.diff:+.2f}", f"[{low:+.2f}, {high:+.2f}]", result.decision]
        table.add_row(
            one.label,
            f"{100 * numbers['accuracy']:.2f}",
            *compared,
            f"{numbers['entropy_topk']:.3f}",
            f"{100 * numbers['never_activated_share']:.1f}",
        )
    console = Console()
    console.print(table)
    first = outcomes[1].result
    if first is not None:
        console.print(
            f"validation, n = {first.n:,}; {first.interval_method}; not corrected for the {len(outcomes) - 1} heads "
            "tried: confirm a choice on the test split. At the answer position: entropy of the top-k weights in nats, "
            "share of experts never activated.",
            style="dim",
        )
