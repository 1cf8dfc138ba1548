"""The verb ``grid``: many settings of a head, or many checkpoints, in one pass over the validation questions."""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import product
from pathlib import Path
from typing import Any

from moe_tune.base.checkpoint_folder import CONFIG
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.found import found_checkpoint
from moe_tune.cli.verbs import add_format, parsed_with_fit
from moe_tune.reports.console import PlainConsole
from moe_tune.reports.table import Cell, Column, Table, interval, numbers, words
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.studies.grid import Outcomes, Point, refuse_lora, run_grid
from moe_tune.tuner.router_tuner import RouterTuner

VARIED = re.compile(r"(model\.(?:head|layers)[\w.]*)=(.+)")


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--vary",
        action="append",
        type=str,
        default=[],
        metavar="KEY=A,B,C",
        help="model.head.tau=0.5,0.7,1; may be repeated; with --ckpt_path the checkpoint's tensors under each setting",
    )
    parser.add_argument("--checkpoints", nargs="+", default=[], type=str, help="checkpoints to evaluate beside them")
    add_format(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Evaluate a grid and print its table; nothing is trained, and the test split is not read."""
    fit = parsed_with_fit("grid", add_arguments, argv, plugins)
    start = fit.settings.ckpt_path  # whose configuration is the one that is varied
    kept = None if start is None else RouterCheckpointIO().load_checkpoint(start)
    varied = _varied(
        fit.settings.vary, lambda more: parsed_with_fit("grid", add_arguments, [*argv, *more], plugins).model
    )
    points = [
        *(point if kept is None else _with_state(point, kept) for point in varied),
        *(_trained(found_checkpoint(path, Path(fit.settings.runs_root)), plugins) for path in fit.settings.checkpoints),
    ]
    if not points:
        raise ConfigError("expected --vary or --checkpoints but got neither. Hint: --vary model.head.tau=0.5,0.7,1.")
    _refuse_scope(fit.model, "model.scope")
    trainer = fit.trainer_for(limit_val_batches=fit.settings.trainer.limit_val_batches)
    outcomes = run_grid(fit.model, fit.datamodule, points, trainer)
    if fit.settings.format == "json":
        print(json.dumps([asdict(one) for one in outcomes], indent=2))
    else:
        _print(outcomes)
    return 0


def _varied(settings: list[str], model_of: Callable[[list[str]], RouterTuner]) -> list[Point]:
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
        model = model_of([f"--{value}" for value in values])
        label = ", ".join(value.removeprefix("model.").removeprefix("head.") for value in values)
        points.append(Point(label, model.head, model.layer_choice))
    return points


def _trained(folder: Path, plugins: dict[str, str]) -> Point:
    model = FitSettings(["--config", str(folder / CONFIG)], plugins).model
    _refuse_scope(model, str(folder))
    refuse_lora(model, str(folder))
    label = folder.parent.parent.name if folder.parent.name == "checkpoints" else folder.name
    return _with_state(Point(label, model.head, model.layer_choice), RouterCheckpointIO().load_checkpoint(folder))


def _with_state(point: Point, kept: dict[str, Any]) -> Point:
    """Return a point whose head has the tensors of a checkpoint."""
    seen = frozenset(kept.get("calibrated_on", ()))
    return replace(point, state=kept["state_dict"], fingerprint=kept["base"]["fingerprint"], calibrated_on=seen)


def _refuse_scope(model: RouterTuner, where: str) -> None:
    hint = "experiment compares heads at other scopes."
    require(model.scope == "answer", "heads at scope answer", model.scope, where, hint)


def _print(outcomes: list[Outcomes]) -> None:
    results = [one.result for one in outcomes]
    table = Table(
        [
            words("head", [_marked(one) for one in outcomes]),
            numbers("acc. %", [one.numbers["accuracy"] for one in outcomes], ".2f", 100),
            numbers("diff", [None if one is None else one.diff for one in results], "+.2f", 100),
            Column("95 % interval", [Cell("" if one is None else interval(*one.told_ci95)) for one in results]),
            words("decision", ["baseline" if one is None else one.decision for one in results]),
            numbers("used", [one.experts for one in outcomes], ".1f"),
            numbers("entropy", [one.numbers["entropy_topk"] for one in outcomes], ".3f"),
            numbers("never %", [one.numbers["never_activated_share"] for one in outcomes], ".1f", 100),
        ]
    )
    console = PlainConsole()
    console.print(table.terminal())
    if (first := results[1]) is not None:
        console.print(
            f"validation, n = {first.n:,}; {first.interval_method}; not corrected for the {len(outcomes) - 1} heads "
            "tried: confirm a choice on the test split. At the answer position: experts used per token, entropy of "
            "the top-k weights in nats, share of experts never activated. *: answers as the pretrained router does.",
            style="dim",
        )


def _marked(one: Outcomes) -> str:
    """Return the name of a head, with a star where it is the pretrained router (its own k, a strength of 0)."""
    return f"{one.label} *" if one.as_pretrained and one.result is not None else one.label
