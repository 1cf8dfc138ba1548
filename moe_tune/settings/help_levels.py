"""The help of a fit in two levels, this project's keys and all; and what the help of one class says of it."""

import argparse
import inspect
import shutil
import textwrap
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import Any

from moe_tune.settings.listing import formula, reference

HELP_ALL = "--help-all"
OTHERS = "options"
SECTIONS = {
    "data": "data",
    "model.head": "head",
    "model.losses": "losses",
    "model": "model",
    "optimizer": "optimizer",
    "lr_scheduler": "learning rate",
    **dict.fromkeys(("runs_root", "name", "fresh", "test_after_fit", "seed_everything", "ckpt_path", "routes"), "runs"),
    "trainer": "trainer, Lightning's own",
}
"""Under which heading a key's help stands, by the first of these that it is or begins with."""
ORDER = (OTHERS, "data", "model", "head", "losses", "optimizer", "learning rate", "runs", SECTIONS["trainer"])
MORE = f"\nLightning's own keys (--trainer.max_epochs, --trainer.precision, ...): {HELP_ALL}\n"


class HelpAll(argparse._HelpAction):
    """Prints the help with Lightning's own keys."""

    def __call__(self, parser: Any, *args: Any, **kwargs: Any) -> None:
        """Print and exit."""
        parser.all_keys = True
        super().__call__(parser, *args, **kwargs)


def sections(groups: Iterable[Any], all_keys: bool) -> list[Any]:
    """Return argparse's groups of a fit's keys under short headings, Lightning's last and only if asked for."""
    found: dict[str, list[argparse.Action]] = {title: [] for title in ORDER}
    for action in (action for group in groups for action in group._group_actions):
        found[_title(action)].append(action)
    if not all_keys:
        del found[SECTIONS["trainer"]]
    return [
        SimpleNamespace(title=title, description=None, _group_actions=some) for title, some in found.items() if some
    ]


def is_of_a_fit(actions: Iterable[argparse.Action]) -> bool:
    """Return whether the keys are those of a fit, Lightning's trainer among them."""
    return any(action.dest.startswith("trainer.") for action in actions)


def told_of(kind: type) -> str:
    """Return a class's formula and reference as paragraphs for a terminal, before them what it is if it has no options.

    The summary of a class with options heads their list.
    """
    text = inspect.getdoc(kind) or ""
    width = min(shutil.get_terminal_size().columns, 120) - 2
    kinds = {one.kind for one in inspect.signature(kind).parameters.values()}
    options = kinds - {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    summary = "" if options else text.partition("\n\n")[0]
    parts = [summary, formula(text), f"Reference: {reference(text)}" if reference(text) else ""]
    return "".join(f"\n{textwrap.fill(said, width)}\n" for said in parts if said)


def _title(action: argparse.Action) -> str:
    key = next((word.lstrip("-") for word in action.option_strings), action.dest)
    return next((SECTIONS[one] for one in _prefixes(key) if one in SECTIONS), OTHERS)


def _prefixes(key: str) -> Iterator[str]:
    """Yield a key and what it begins with, the longest first."""
    words = key.split(".")
    yield from (".".join(words[:end]) for end in range(len(words), 0, -1))
