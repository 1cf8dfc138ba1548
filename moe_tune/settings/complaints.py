"""What jsonargparse has to say about an argument, as one message with a remedy."""

import difflib
import re
from collections.abc import Iterable

from moe_tune.base.errors import did_you_mean
from moe_tune.settings.listing import entries

SLOTS = {"model.head": "heads", "model.losses": "losses", "data.source": "sources"}
"""Configuration keys that take a class of a plug-in folder."""


def readable(message: str, keys: Iterable[str]) -> str:
    """Return jsonargparse's complaint as one message with a remedy."""
    text = " ".join(message.split())
    if foreign := re.search(r"dot import path string: (\w+)", text):
        kind = next((folder for key, folder in SLOTS.items() if f'"{key}' in text), None)
        known = [entry["name"] for entry in entries(kind)] if kind else []
        hint = did_you_mean(foreign[1], known) if kind else "give a class path that can be imported."
        return f"expected a class but got {foreign[1]!r} ({text[:60]}). Hint: {hint}"
    if option := re.search(r"Option '([\w.]+)' is not accepted", text):
        place = re.search(r'[Pp]arser key "([\w.]+)"', text)
        where, key = (place[1], place[1]) if place else ("a class's options", "model.head")
        return (
            f"expected an option of the class but got {option[1]!r} ({where}). "
            f"Hint: python -m moe_tune fit --{key}.help CLASS names its options."
        )
    if mistyped := re.search(r'[Pp]arser key "([\w.]+)".*?Given value: (.*)$', text):
        kinds = [kind for kind in re.findall(r"Expected an? <class '([\w.]+)'>", text) if kind != "NoneType"]
        wanted = " or ".join(dict.fromkeys(kinds)) or "another type of value"
        return (
            f"expected {wanted} but got {mistyped[2]!r} ({mistyped[1]}). "
            "Hint: python -m moe_tune fit --help shows the type of every key."
        )
    if unknown := re.search(r"(?:nrecognized arguments: --|[Kk]ey '|Subcommand ')([\w.]+)", text):
        name = unknown[1]
        close = difflib.get_close_matches(name, list(keys), n=1, cutoff=0.5)
        hint = f"Did you mean {close[0]}?" if close else "python -m moe_tune fit --help names every key."
        return f"expected a known key but got {name!r} ({text[:160]}). Hint: {hint}"
    return f"{text[:600]} Hint: python -m moe_tune fit --help names every key."
