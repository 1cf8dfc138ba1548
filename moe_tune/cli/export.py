"""The verb ``export``: a run as a router card or folded into a stock checkpoint, and two cards compared."""

from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, require
from moe_tune.base.locks import output_folder
from moe_tune.cli.verbs import parsed


def add_arguments(parser: Any) -> None:
    """Add the verb's options."""
    parser.add_argument("run", nargs="?", metavar="RUN", help="a run directory, its name, or a checkpoint")
    parser.add_argument(
        "--output", type=Path, metavar="FOLDER", help="where it is written (default: card/ or folded/ in the run)"
    )
    parser.add_argument(
        "--fold",
        action="store_true",
        help="write a stock checkpoint with the head in its router weights, where a stock gate can be that head",
    )
    parser.add_argument(
        "--questions",
        type=int,
        metavar="N",
        help="validation questions on which --fold measures what it changes (all); 0 measures nothing",
    )
    parser.add_argument("--push", metavar="REPO_ID", help="upload what was written to this repository of the Hub")
    parser.add_argument("--private", action="store_true", help="make the repository private, if --push makes it")
    parser.add_argument("--diff", nargs=2, metavar=("A", "B"), help="compare two cards or runs instead")
    parser.add_argument(
        "--runs_root", type=Path, default=Path("runs"), help="folder where runs are looked for by name (default: runs)"
    )


def main(argv: list[str], plugins: dict[str, str]) -> int:
    """Write a card or a folded checkpoint and say what it is, or print what tells two cards apart."""
    given = parsed("export", add_arguments, argv)
    if (given.run is None) == (given.diff is None):
        raise ConfigError(
            f"expected one run, or --diff with two cards, but got {'both' if given.run else 'neither'} (export). "
            "Hint: python -m moe_tune export RUN --output FOLDER."
        )
    for name, alone in (("--private", given.private and not given.push), ("--questions", _given_alone(given))):
        hint = "--private goes with --push, --questions with --fold."
        require(not alone, f"{name} with what it belongs to", name, "export", hint)
    # Imported here so that --help answers at once.
    from moe_tune.settings.quiet import quieten

    quieten()
    return _differ(given) if given.diff else _export(given, plugins)


def _given_alone(given: Any) -> bool:
    return given.questions is not None and (not given.fold or given.questions < 0)


def _export(given: Any, plugins: dict[str, str]) -> int:
    from moe_tune.base.found import found_checkpoint
    from moe_tune.export.push import push_folder, require_token

    checkpoint = found_checkpoint(given.run, given.runs_root)
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint.parent
    target = given.output or home / ("folded" if given.fold else "card")
    if given.push:
        require_token(given.push)
    with output_folder(target, "--output"):
        _refuse_other(target)
        what = _fold(given, plugins, checkpoint, target) if given.fold else _card(checkpoint, target)
        if given.push:
            commit = push_folder(target, given.push, private=given.private, message=f"{what} by moe_tune")
            print(f"uploaded to {given.push} at {commit}")
    return 0


def _card(checkpoint: Path, target: Path) -> str:
    from moe_tune.export.card import write_card
    from moe_tune.export.card_of_run import card_of_run
    from moe_tune.export.model_card import base_name, head_name, metric_table, readme_of_card
    from moe_tune.reports.console import PlainConsole

    card = card_of_run(checkpoint)
    write_card(card, readme_of_card(card), target)
    console, base = PlainConsole(), card.settings["base"]
    if card.metrics:
        console.print(metric_table(card).terminal())
    numbers = sum(one.numel() for one in card.tensors.values())
    console.print(
        f"router card: {head_name(card)} on layers {card.settings['layers']} of {base_name(base)}, {numbers:,} numbers,"
        f" fingerprint {base['fingerprint']}: {target}",
        soft_wrap=True,
    )
    given = ", 'FOLDER OF THE BASE MODEL'" if base["source"] == "folder" else ""
    console.print(f"from moe_tune import load_card; gated = load_card({str(target)!r}{given})", soft_wrap=True)
    return "router card"


def _fold(given: Any, plugins: dict[str, str], checkpoint: Path, target: Path) -> str:
    from moe_tune.export.fold_effect import effect_table
    from moe_tune.export.folded_run import fold_run
    from moe_tune.reports.console import PlainConsole

    done = fold_run(checkpoint, plugins, target, given.questions)
    console = PlainConsole()
    if done.effect:
        table = effect_table(done.effect)
        console.print(table.terminal())
        console.print(table.caption, soft_wrap=True)
    console.print(
        f"folded into {done.gates} tensors of {len(done.layers)} routers; all {done.tensors:,} tensors read back, the "
        f"others are the base model's: {target}",
        soft_wrap=True,
    )
    console.print(f"AutoModelForCausalLM.from_pretrained({str(target)!r})", soft_wrap=True)
    return "folded checkpoint"


def _differ(given: Any) -> int:
    from moe_tune.base.errors import DataError
    from moe_tune.base.found import found_checkpoint
    from moe_tune.export.card import is_card, read_card
    from moe_tune.export.card_of_run import card_of_run
    from moe_tune.export.difference import difference
    from moe_tune.reports.console import PlainConsole

    cards = []
    for name in given.diff:
        if is_card(Path(name)):
            cards.append(read_card(Path(name)))
            continue
        try:
            cards.append(card_of_run(found_checkpoint(name, given.runs_root)))
        except DataError as fault:
            raise DataError(f"expected a router card, or: {str(fault).removeprefix('expected ')}") from fault
    found, console = difference(*cards), PlainConsole()
    if found.is_empty:
        console.print("identical: settings, tensors to the last bit, metrics")
        return 0
    for table in found.tables():
        console.print(table.terminal())
        if table.caption:
            console.print(table.caption, style="dim", soft_wrap=True)
    same = [what for what, one in (("settings", found.settings), ("tensors", found.layers)) if not one]
    if same:
        console.print(f"the same: {', '.join(same)}")
    return 0


def _refuse_other(target: Path) -> None:
    """Refuse a folder that holds something else: what is written takes its place."""
    from moe_tune.export.card import CARD
    from moe_tune.export.folded_run import FOLDED

    free = not target.is_dir() or not any(target.iterdir()) or any((target / one).is_file() for one in (CARD, FOLDED))
    hint = "a new folder, or one that an export has written."
    require(free, "a folder that is new or empty", str(target), "--output", hint)
