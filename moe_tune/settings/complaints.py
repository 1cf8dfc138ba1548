"""What jsonargparse has to say about an argument, as one message with a remedy."""

import ast
import difflib
import re
from collections.abc import Iterable, Sequence

from moe_tune.base.errors import did_you_mean
from moe_tune.settings.listing import KINDS, entries, options
from moe_tune.settings.named_classes import class_at, module_classes, parameters, slot_of

SLOTS = {
    "model.head": ("heads",),
    "model.losses": ("losses",),
    "criterion": ("criteria",),
    "data.source": ("sources",),
    "data.test_sources": ("sources", "texts", "short_answers"),
    "data.text": ("texts",),
}
"""Configuration keys that take a class of these kinds."""
TYPES = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "dict": "a mapping",
    "list": "a list",
    "collections.abc.Iterable": "a list",
}
"""Types in words."""
ALL_KEYS = "python -m moe_tune fit --help-all names every key."
ALL_TYPES = "python -m moe_tune fit --help-all shows the type of every key."
SHOWN = 120
"""Most characters of a value that are repeated."""


def readable(message: str, keys: Iterable[str], argv: Sequence[str] = ()) -> str:
    r"""Return jsonargparse's complaint as one message with a remedy.

    Args:
        message: What jsonargparse said, of one or several lines.
        keys: Every key there is.
        argv: The command's words, in whose configurations the place is looked up.

    Example:
        >>> readable('Parser key "model.scope": Expected a typing.Literal[\'answer\', \'all\']. Got value: al', [])
        "expected 'answer' or 'all' but got 'al' (model.scope). Hint: Did you mean all? Available: all, answer."
    """
    text = " ".join(message.split())
    if option := re.search(r"Option '([\w.]+)' is not accepted", text):
        return _unknown_option(option[1], _place(text, argv, option[1]), argv)
    if missing := re.search(r"arguments are required: (?:fit\.|\w+\.(?=data\.|model\.))?([\w.]+)", text):
        return _missing(missing[1], _place(text, argv), argv)
    if unknown := re.search(r"(?:does not accept option '|nrecognized arguments: |[Kk]ey ')(-*)([\w.+-]+)", text):
        return _unknown_key(unknown[2], keys, is_key=bool(unknown[1]) or "unrecognized" not in text)
    if odd := re.search(r"Key must be a string, got: (.*?)\.?$|Empty nested key: \"(.*)\"", text):
        return f"expected a text as key but got {odd[1] or odd[2]!r} (a key of the configuration). Hint: {ALL_KEYS}"
    if unread := re.search(r"Parser key \"([\w.]+)\": Unable to load config '(.*?)'", text):
        return f"expected a mapping of keys but got {unread[2]!r} ({unread[1]}). Hint: {ALL_KEYS}"
    return (
        _of_a_class(text, argv) or _of_a_value(text, argv) or f"expected other arguments: {text[:600]} Hint: {ALL_KEYS}"
    )


def _place(text: str, argv: Sequence[str], option: str | None = None, value: str | None = None) -> str:
    """Return the dotted key that a complaint is about, as far as it can be told."""
    named = list(dict.fromkeys(re.findall(r'[Pp]arser key "([\w.]+)"', text)))
    if not named or ("." not in named[0] and len(named) == 1 and option is None):
        found = slot_of(option or (named[0] if named else ""), argv, value)
        return found or ".".join(named)
    return ".init_args.".join(named)


def _kinds(place: str) -> Sequence[str]:
    return next((kinds for slot, kinds in SLOTS.items() if place.startswith(slot)), ())


def _of_a_class(text: str, argv: Sequence[str]) -> str | None:
    """Return the complaint about a class that is not there or not of the kind; ``None`` of anything else."""
    place = _place(text, argv)
    known = [entry["name"] for kind in _kinds(place) for entry in entries(kind)]
    example = did_you_mean("", known) if known else "give a class path that can be imported."
    if "Got value" not in text and (foreign := re.search(r"dot import path string: ([^\s]+)", text)) and known:
        return f"expected a class but got {foreign[1]!r} ({place}). Hint: {did_you_mean(foreign[1], known)}"
    if broken := re.search(r"Problem with given class_path '([\w.]+)': (.*?)(?= - |$)", text):
        module, _, name = broken[1].rpartition(".")
        close = difflib.get_close_matches(name, module_classes(module), n=1, cutoff=0.5)
        hint = f"did you mean {module}.{close[0]}?" if close else example
        return f"expected a class but got {broken[1]!r}: {broken[2][:SHOWN]} ({place}). Hint: {hint}"
    if other := re.search(r"Import path ([\w.]+) does not correspond to a subclass of (\w+)", text):
        return f"expected a subclass of {other[2]} but got {other[1]!r} ({place}). Hint: {example}"
    if abstract := re.search(r"Expected an instantiatable class, but ([\w.]+) is abstract", text):
        return f"expected a class that can be used but got {abstract[1]}, which is abstract ({place}). Hint: {example}"
    if none := re.search(r"Not a valid subclass of (\w+)\.? ", text):
        value = re.search(r"(?:Got|Given) value: (.*?)(?= Subclass types| - |$)", text)
        came = value[1][:SHOWN] if value else "another value"
        return f"expected a class of the kind {none[1]} but got {came!r} ({place}). Hint: {example}"
    return None


def _of_a_value(text: str, argv: Sequence[str]) -> str | None:
    """Return the complaint about a value of another type; ``None`` if it is about something else."""
    inner = re.split(r'[Pp]arser key "[\w.]+"', text)[-1]
    value = re.search(r"Got value: (.*)$|Given value: (.*?)(?= - Expected| Given value type|$)", inner)
    if value is None:
        return None
    came = (value[1] or value[2] or "")[:SHOWN]
    said = re.findall(r"Expected an? (typing\.Literal\[.*?\]|<class '[\w.]+'>|[a-z][\w ]*? elements)", inner)
    choices = [one for words in said if words.startswith("typing") for one in ast.literal_eval(words[14:])]
    words = [] if choices else [one for one in said if not one.startswith("<")]
    classes = [TYPES.get(one[8:-2], one[8:-2]) for one in said if one.startswith("<") and "NoneType" not in one]
    wanted = [*map(repr, choices), *words, *dict.fromkeys(classes)] or ["another type of value"]
    listed = " or ".join([", ".join(wanted[:-1]), wanted[-1]] if len(wanted) > 1 else wanted)
    hint = did_you_mean(came, map(str, choices)) if choices else ALL_TYPES
    return f"expected {listed} but got {came!r} ({_place(text, argv, value=came)}). Hint: {hint}"


def _missing(option: str, place: str, argv: Sequence[str]) -> str:
    where = (
        option if "." in option else slot_of(option, argv, missing=True) or (f"{place}.{option}" if place else option)
    )
    known = [entry["name"] for kind in _kinds(where) for entry in entries(kind)] if where in SLOTS else []
    hint = did_you_mean("", known) if known else f"give --{where}."
    return f"expected a value but got none ({where}). Hint: {hint}"


def _unknown_key(name: str, keys: Iterable[str], *, is_key: bool) -> str:
    known = list(keys)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    last = name.rpartition(".")[2]
    alike = [one for one in known if one.rpartition(".")[2] == last and "." in one]
    best = close or alike[:1]
    hint = f"Did you mean {best[0]}?" if best and is_key else ALL_KEYS
    asked = f"expected {'a known key' if is_key else 'options alone'} but got {name!r}"
    return f"{asked} ({'--' if is_key else ''}{name}). Hint: {hint}"


def _unknown_option(option: str, place: str, argv: Sequence[str]) -> str:
    """Return the complaint about an option that a class does not have, with those it has."""
    given = [word.lstrip("-").partition("=")[0] for word in argv]
    said = (word.removesuffix(f".{option}") for word in given if word.endswith(f".{option}"))
    key = place.removesuffix(f".{option}").removesuffix(".init_args") or next(said, "model.head")
    path = class_at(key, argv, option)
    name = path.rpartition(".")[2] if path else None
    known = [one for kind in _kinds(key) or KINDS[:-1] for one in options(kind, name)] or parameters(path)
    hint = f"{did_you_mean(option, known)} " if known else ""
    slot = "data.test_sources" if key.startswith("data.test_sources.") else key  # sources by name have one help
    return (
        f"expected an option of {name or 'the class'} but got {option!r} ({key}). "
        f"Hint: {hint}python -m moe_tune fit --{slot}.help {name or 'CLASS'} explains them."
    )
