"""What jsonargparse has to say about an argument, as one message with a remedy."""

import difflib
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from moe_tune.base.errors import did_you_mean
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.settings.arguments import CONFIG_WORDS, is_inline
from moe_tune.settings.listing import entries, options

SLOTS = {
    "model.head": ("heads",),
    "model.losses": ("losses",),
    "criterion": ("criteria",),
    "data.source": ("sources",),
    "data.test_sources": ("sources", "texts", "short_answers"),
}
"""Configuration keys that take a class of these kinds."""


def readable(message: str, keys: Iterable[str], argv: Sequence[str] = ()) -> str:
    """Return jsonargparse's complaint as one message with a remedy."""
    text = " ".join(message.split())
    if foreign := re.search(r"dot import path string: (\w+)", text):
        kinds = next((given for key, given in SLOTS.items() if f'"{key}' in text), ())
        known = [entry["name"] for kind in kinds for entry in entries(kind)]
        hint = did_you_mean(foreign[1], known) if kinds else "give a class path that can be imported."
        return f"expected a class but got {foreign[1]!r} ({text[:60]}). Hint: {hint}"
    if option := re.search(r"Option '([\w.]+)' is not accepted", text):
        place = re.search(r'[Pp]arser key "([\w.]+)"', text)
        return _unknown_option(option[1], place[1] if place else None, argv)
    if mistyped := re.search(r'[Pp]arser key "([\w.]+)".*?Given value: (.*)$', text):
        types = [one for one in re.findall(r"Expected an? <class '([\w.]+)'>", text) if one != "NoneType"]
        wanted = " or ".join(dict.fromkeys(types)) or "another type of value"
        return (
            f"expected {wanted} but got {mistyped[2]!r} ({mistyped[1]}). "
            "Hint: python -m moe_tune fit --help-all shows the type of every key."
        )
    if unknown := re.search(r"(?:nrecognized arguments: --|[Kk]ey '|Subcommand ')([\w.]+)", text):
        name = unknown[1]
        close = difflib.get_close_matches(name, list(keys), n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else "python -m moe_tune fit --help-all names every key."
        return f"expected a known key but got {name!r} ({text[:160]}). Hint: {hint}"
    return f"{text[:600]} Hint: python -m moe_tune fit --help-all names every key."


def _unknown_option(option: str, key: str | None, argv: Sequence[str]) -> str:
    """Return the complaint about an option that a class does not have, with those it has."""
    given = [word.lstrip("-").partition("=")[0] for word in argv]
    key = key or next((word.removesuffix(f".{option}") for word in given if word.endswith(f".{option}")), "model.head")
    kinds = next((given for slot, given in SLOTS.items() if key.startswith(slot)), ("heads",))
    name = _class_at(key, argv)
    known = [one for kind in kinds for one in options(kind, name)]
    hint = f"{did_you_mean(option, known)} " if known else ""
    slot = "data.test_sources" if key.startswith("data.test_sources.") else key  # sources by name have one help
    return (
        f"expected an option of {name or 'the class'} but got {option!r} ({key}). "
        f"Hint: {hint}python -m moe_tune fit --{slot}.help {name or 'CLASS'} explains them."
    )


def _class_at(key: str, argv: Sequence[str]) -> str | None:
    """Return the short name of the class that the last argument or configuration puts at a key."""
    found: str | None = None
    words = list(argv)
    for word, after in zip(words, [*words[1:], ""], strict=True):
        name, equals, value = word.partition("=")
        value = value if equals else after
        if name == f"--{key}":
            found = value
        elif name in CONFIG_WORDS and not is_inline(value) and Path(value).is_file():
            content: Any = load_yaml(Path(value))
            for part in key.split("."):
                content = content.get(part) if isinstance(content, dict) else None
            content = content.get("class_path") if isinstance(content, dict) else content
            found = str(content) if content else found
    return found.rpartition(".")[2] if found else None
