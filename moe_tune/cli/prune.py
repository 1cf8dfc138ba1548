"""The verb ``prune``: experts are chosen and taken from a model, which is judged before and after."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import moe_tune.criteria  # noqa: F401 (makes the criteria known by short name)
from moe_tune.base.errors import ConfigError
from moe_tune.base.locks import output_folder
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.base.published import published, write_json
from moe_tune.cli.verbs import add_format, parsed_with_fit
from moe_tune.criteria.base import Criterion
from moe_tune.pruning.applied import MASKED
from moe_tune.pruning.before_after import costs_table, plain, sets_table
from moe_tune.pruning.prune import Pruned, prune
from moe_tune.pruning.prune_settings import PruneSettings
from moe_tune.pruning.repair import repaired_table
from moe_tune.reports.console import PlainConsole
from moe_tune.reports.table import Table

RESULTS = "before_after"
"""What the files of the results are called."""


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    known = ", ".join(concrete_subclasses(Criterion))
    parser.add_argument("--criterion", type=Criterion | None, default=None, help=f"which experts go: {known}")
    parser.add_argument("--share", type=float | None, default=None, help="share of each layer's experts that go")
    parser.add_argument("--count", type=int | None, default=None, help="how many of each layer go, instead")
    parser.add_argument("--how", choices=["remove", "mask"], default="remove", help="a smaller model, or a mask")
    parser.add_argument(
        "--scope", choices=["all", "answer"], default="all", help="which tokens count when experts are chosen"
    )
    parser.add_argument(
        "--split", choices=["train", "validation"], default="train", help="whose questions they are chosen on"
    )
    parser.add_argument("--top_k", type=int | None, default=None, help="experts per token afterwards")
    parser.add_argument("--out", type=str | None, default=None, help="a new folder for the model, or the mask")
    parser.add_argument("--test", action="store_true", help="open the quiz's test split, too; the ledger records it")
    parser.add_argument(
        "--repair",
        choices=["quiz", "text"],
        default=None,
        help="tune the routers afterwards with the model before as teacher, on training questions or data.text",
    )
    add_format(parser)


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Prune a model, and print what it costs and what it still can, before and after."""
    fit = parsed_with_fit("prune", add_arguments, argv, plugins)
    given = fit.settings
    criterion = fit.objects.criterion
    if criterion is None:
        raise ConfigError(
            f"expected a criterion but got none (--criterion). Hint: one of "
            f"{', '.join(concrete_subclasses(Criterion))}; Frequency counts tokens."
        )
    if given.ckpt_path is not None:
        raise ConfigError(
            "expected a base model but got a checkpoint of heads (--ckpt_path). Hint: leave it out; heads are tuned on "
            "the pruned model."
        )
    number = f"{given.share:g}" if given.share is not None else str(given.count or "all")
    out = Path(given.out or f"pruned/{type(criterion).__name__}-{number}-{given.how}")
    asked = PruneSettings(
        criterion=criterion,
        out=out,
        share=given.share,
        count=given.count,
        how=given.how,
        scope=given.scope,
        split=given.split,
        top_k=given.top_k,
        test=given.test,
        repair=given.repair,
    )
    with output_folder(out):
        pruned = prune(
            fit.model, fit.datamodule, fit.trainer_for(devices=1, num_nodes=1), asked, fit.configuration, plugins
        )
        _write(pruned, asked)
    if given.format == "json":
        print(json.dumps(_plain(pruned) | {"gone": pruned.gone}, indent=2))
        return 0
    console = PlainConsole()
    for table in _tables(pruned, asked):
        console.print(table.terminal())
        console.print(table.caption, style="dim", soft_wrap=True)
    if pruned.note:
        console.print(pruned.note, style="dim", soft_wrap=True)
    use = f"--config {out / MASKED}" if asked.how == "mask" else f"--model.base.path {out}"
    console.print(f"written: {out}; next: python -m moe_tune validate ... {use}", soft_wrap=True)
    return 0


def _tables(pruned: Pruned, asked: PruneSettings) -> list[Table]:
    made = [costs_table(pruned.before, pruned.after), sets_table(pruned.sets, pruned.chosen_on)]
    return made + ([repaired_table(pruned.repaired, asked.repair)] if asked.repair is not None else [])


def _plain(pruned: Pruned) -> dict[str, Any]:
    repaired = {"repaired": [asdict(one) for one in pruned.repaired]} if pruned.repaired else {}
    return plain(pruned.sets, pruned.before, pruned.after) | repaired


def _write(pruned: Pruned, asked: PruneSettings) -> None:
    """Write what was found beside the model or the mask."""
    out, tables = asked.out, _tables(pruned, asked)
    write_json(out / f"{RESULTS}.json", _plain(pruned))
    text = "\n\n".join(f"## {one.title}\n\n{one.markdown()}\n\n{one.caption}" for one in tables)
    with published(out / f"{RESULTS}.md") as draft:
        draft.write_text(f"{text}\n\n{pruned.note}".rstrip() + "\n", encoding="utf-8")
