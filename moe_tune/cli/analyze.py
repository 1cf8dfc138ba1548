"""The verb ``analyze``: the routing evidence of a model or a run."""

import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_tune.analysis.analyse import Asked, analyse
from moe_tune.analysis.route_tables import told_routes
from moe_tune.analysis.terminal import print_terminal
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.locks import output_folder
from moe_tune.base.memory import peak_memory
from moe_tune.base.routes_file import read_routes
from moe_tune.cli.named_run import run_or_config
from moe_tune.cli.verbs import add_format, parsed, parsed_with_fit
from moe_tune.reports.console import PlainConsole
from moe_tune.routing import PARTS
from moe_tune.runs.directory import identity
from moe_tune.settings.config_files import config_label
from moe_tune.settings.fit_settings import FitSettings

SCOPES = ("answer", "all", *PARTS)
SENSITIVITY = 256
"""Questions the sensitivity is measured on, unless told otherwise."""
REGRET = 256
"""Questions that routes are sampled for, unless told otherwise."""


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "--split", type=str, default="test", help="questions read; each reading of a test split is recorded"
    )
    parser.add_argument(
        "--shots", nargs="+", type=int, help="worked examples per pass (0, the configured, 5 if there are)"
    )
    parser.add_argument("--scopes", nargs="+", choices=SCOPES, default=list(SCOPES), help="which tokens count")
    parser.add_argument("--sensitivity", type=int, default=SENSITIVITY, metavar="N", help="questions; 0 leaves it out")
    parser.add_argument(
        "--regret", type=int, default=REGRET, metavar="N", help="questions routes are sampled for; 0 leaves it out"
    )
    parser.add_argument("--draws", type=int, default=1000, help="permutations of the null, at least 40 per layer")
    parser.add_argument("--out", type=str, help="folder of the results")
    _add_routes(parser)


def _add_routes(parser: Any) -> None:
    told = "a file of routes, or two that are compared, in place of a model: parquet (predict --routes) or npz"
    parser.add_argument("--routes", nargs="+", type=str, metavar="FILE", help=told)


def _of_routes(parser: Any) -> None:
    _add_routes(parser)
    add_format(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Analyse a model or a run, write the results and print one screen; a first word is the run or a checkpoint."""
    if any(word.partition("=")[0] == "--routes" for word in argv):
        return _routes(parsed("analyze", _of_routes, argv))
    began = time.monotonic()
    run, words = run_or_config("analyze", argv)
    if any(word.partition("=")[0] == "--data.few_shot" for word in words):
        raise ConfigError("expected --shots but got --data.few_shot (analyze). Hint: --shots 0 5 makes two passes.")
    host = parsed_with_fit("analyze", add_arguments, words, plugins)
    given = host.settings
    _refuse_unfit(given)
    if run is None:
        name = config_label(["fit", *words])
        home = place = Path(given.runs_root) / f"{name}-analysis"
    else:
        home = run.parent.parent if run.parent.name == "checkpoints" else run
        name, place = home.name, home / "analysis"
    out = Path(given.out) if given.out else place / _name(host, run, plugins)
    checkpoint = None if run is None else str(run)
    samples = (given.sensitivity, given.regret)
    asked = Asked(name, checkpoint, home, given.split, given.shots, given.scopes, *samples, given.draws)

    def pass_of(shots: int) -> FitSettings:
        return parsed_with_fit("analyze", add_arguments, [*words, f"--data.few_shot={shots}"], plugins)

    with output_folder(out):
        analysis = analyse(asked, host, pass_of, out)
    console = PlainConsole()
    print_terminal(console, analysis, out)
    console.print(f"{time.monotonic() - began:.0f} s, at most {peak_memory() / 2**30:.2f} GiB of memory", style="dim")
    return 0


def _routes(given: Any) -> int:
    """Say what files of routes hold, and how far two of them agree; no model is loaded."""
    hint = "analyze --routes ONE.parquet OTHER.npz."
    require(len(given.routes) <= 2, "one or two files of routes", given.routes, "--routes", hint)
    tables, plain = told_routes([read_routes(file) for file in given.routes])
    if given.format == "json":
        print(json.dumps(plain, indent=2))
        return 0
    console = PlainConsole()
    for table in tables:
        console.print(table.title, style="bold", soft_wrap=True)  # a path is never folded
        console.print(replace(table, title="").terminal())
    console.print(
        "activated: experts that serve at least one token; overlap: experts in both over those in the larger set; "
        "moved: half the sum of absolute differences of the weights.",
        style="dim",
    )
    return 0


def _refuse_unfit(given: Any) -> None:
    fewest = min(given.sensitivity, given.regret, *(given.shots or ()))
    if fewest < 0 or given.draws < 100:
        raise ConfigError(
            f"expected shots, sensitivity and regret of 0 or more and at least 100 draws but got {given.shots}, "
            f"{given.sensitivity}, {given.regret} and {given.draws} (analyze). "
            f"Hint: the defaults are 0 5, {SENSITIVITY}, {REGRET} and 1000."
        )
    if given.split == "dev" and given.shots != [0]:
        raise ConfigError(
            "expected no worked examples for their own split, as every question would show its answer, "
            f"but got {given.shots or 'the default'} (--shots). Hint: --split dev --shots 0."
        )
    if set(given.scopes) == {"examples"} and given.shots and not any(given.shots):
        raise ConfigError("expected worked examples for the scope examples but got --shots 0. Hint: --shots 5.")


def _name(host: FitSettings, run: Path | None, plugins: dict[str, str]) -> str:
    """Return the name of the results: model, data, protocol, split, and 8 hex of all that was asked for."""
    quiz, split = host.datamodule, str(host.settings.split)
    asked = {**host.configuration, "checkpoint": run and run.name, "plugins": plugins}
    words = (Path(host.model.base.path).name, type(quiz.splits.source).__name__, quiz.protocol_name(split), split)
    return "-".join([*words, identity(asked)])
