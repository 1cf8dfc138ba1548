"""The one table of verbs, and how each reads its arguments.

The verb ``x`` is the module ``moe_tune.cli.x`` (``a-b``: ``a_b``): ``main(argv, plugins) -> int``, and
``add_arguments(parser)`` where it has options of its own.
"""

import argparse
import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from moe_tune.base.uncollected import uncollected
from moe_tune.cli.own_arguments import OwnArguments

if TYPE_CHECKING:
    from moe_tune.settings.fit_settings import FitSettings

VERBS = {
    "fit": "train or calibrate a router head, validate every epoch, test once",
    "validate": "evaluate the validation split",
    "test": "evaluate the test split (each time is recorded in the ledger)",
    "predict": "write the letter probabilities of the test questions",
    "experiment": "run every arm of an experiment.yaml with every seed, then compare",
    "analyze": "which experts a model or a run uses, how sure its gate is, how well they do: tables and one HTML "
    "report",
    "ablate": "what happens without an expert, a layer's experts or a set: effects by intervention, with intervals",
    "trace": "how the routers route one prompt, token by token: base beside tuned",
    "generate": "text of base and tuned models side by side, where they part, and which experts served each token",
    "lm-eval": "run lm-evaluation-harness's tasks on base and tuned models, and write its samples for compare",
    "sweep": "run a W&B sweep file on this machine, without a server",
    "compare": "compare runs with a baseline run, or one with the pretrained router: paired test, intervals, report",
    "export": "a router card of a run, or a stock checkpoint with its head folded in; two cards compared",
    "grid": "evaluate many settings of a head, or many checkpoints, in one pass",
    "prune": "choose experts and mask them or remove them for real; size, speed and answers before and after",
    "cache": "build, list, inspect and clean prompt caches",
    "check": "check configurations and W&B sweep files, offline and without loading a model",
    "estimate": "say what memory, disk and time a configuration will need, before anything is loaded",
    "list": "name the heads, losses, metrics, criteria, families, sources, texts, protocols; the runs of a folder",
    "doctor": "show versions, cores, memory, disk and logins",
}
"""What each verb does, in the order of ``--help``."""

AddArguments = Callable[[Any], None]


def command_of(verb: str) -> Callable[[list[str], dict[str, str]], int]:
    """Return what runs a verb: it takes the arguments after it and sha256 of plug-in files by path."""
    command: Callable[[list[str], dict[str, str]], int] = importlib.import_module(
        f"moe_tune.cli.{verb.replace('-', '_')}"
    ).main
    return command


def parsed(verb: str, add_arguments: AddArguments, argv: list[str]) -> argparse.Namespace:
    """Return the arguments of a verb that takes only its own.

    Raises:
        ConfigError: One is unknown, missing or none of those there are.
    """
    parser = OwnArguments(prog=f"moe_tune {verb}", description=_about(verb), allow_abbrev=False)
    add_arguments(parser)
    return parser.parse_args(argv)


def parsed_with_fit(verb: str, add_arguments: AddArguments, argv: list[str], plugins: dict[str, str]) -> "FitSettings":
    """Return the arguments of a verb that takes a fit's beside its own, with the model and the data, not loaded."""
    with uncollected():
        from moe_tune.settings.fit_settings import FitSettings
        from moe_tune.settings.passed_over import tell_passed_over
        from moe_tune.settings.quiet import quieten

    quieten()
    tell_passed_over(argv)
    shown = {"usage": f"moe_tune {verb} [options]", "description": _about(verb)}
    return FitSettings(argv, plugins, add_arguments, **shown)


def add_format(parser: Any) -> None:
    """Add the choice between text and JSON."""
    parser.add_argument("--format", choices=["text", "json"], default="text", help="text for people, json for programs")


def _about(verb: str) -> str:
    text = VERBS[verb.partition(" ")[0]]
    return f"{text[0].upper()}{text[1:]}."
