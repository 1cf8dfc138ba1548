"""What a run's directory is called beside its hash: what the command line says beyond the configuration files."""

import glob
import re
from pathlib import Path

from moe_tune.settings.arguments import read_arguments

LONGEST, LONGEST_VALUE = 30, 16
UNSAID = re.compile(
    r"-?c|config|name|runs_root|test_after_fit|fresh|ckpt_path|seed_everything|model\.head(\.class_path)?"
    r"|trainer\.(logger|callbacks|enable_\w+|log_every_n_steps|accelerator|devices|num_nodes|default_root_dir)(\..*)?"
    r"|data\.num_workers|print_config|routes|checkpoint_every(\..*)?"
)
"""Keys that make no other run, or are in the name already."""
BETWEEN = ("class_path", "init_args")


def said(argv: list[str]) -> str:
    """Return what a command overrides beside its files, short enough for a folder's name.

    Example:
        >>> said(["fit", "--trainer.max_epochs", "1", "--checkpoint_every.steps=9", "--name", "a", "--optimizer.lr=.1"])
        'epochs1-lr.1'
        >>> said(["fit", "--model.scope=all", "--data.source.path", "/data/my quiz.jsonl", "--data.official", "true"])
        'scope_all-path_myquiz'
    """
    words: dict[str, str] = {}
    rest = read_arguments(argv)[0][1:]
    for place, word in enumerate(rest):
        key, equals, value = word.removeprefix("--").partition("=")
        if not word.startswith("--") or UNSAID.fullmatch(key.removesuffix("+")):
            continue
        following = rest[place + 1] if place + 1 < len(rest) else ""
        words[key] = _short(key, value if equals else following)
    name = ""
    for word in words.values():
        if word and len(name) + len(word) < LONGEST:
            name += f"-{word}" if name else word
    return name


def _short(key: str, value: str) -> str:
    """Return a key's last part and its value, without what is no part of a folder's name; empty for what is no word."""
    if "{" in value or "[" in value:
        return ""
    value = Path(value).stem if "/" in value else value.rpartition(".")[2] if value[:1].isalpha() else value
    plain = re.sub(r"[^\w.]", "", re.sub(r"^-", "minus", value))[:LONGEST_VALUE]
    parts = [part for part in key.split(".") if part not in BETWEEN]
    last = re.sub(r"\W", "", parts[-1].removeprefix("max_"))
    return f"{last[:1].lower()}{last[1:]}{'' if plain[:1] in '.0123456789' else '_'}{plain}" if last and plain else ""


def standing(plain: Path, arm: str, words: str) -> Path:
    """Return the directory of a configuration: one that is there under any spelling, or else a new one's path.

    Args:
        plain: The directory without words, as it was always called: ``<arm>-s<seed>-<hash>``.
        arm: What its name begins with: configuration and head.
        words: What ``said`` returned.
    """
    end = plain.name.removeprefix(arm)
    spelt = plain.with_name(f"{arm}-{words}{end}") if words else plain
    others = sorted(plain.parent.glob(f"{glob.escape(arm)}-*{glob.escape(end)}"))
    return next((path for path in (spelt, plain, *others) if path.is_dir()), spelt)
