"""What can be plugged in, kind by kind, with one line and the paper each."""

import inspect
from importlib import import_module

from moe_tune.base.plugins import concrete_subclasses

PLUGGED = {
    "heads": "moe_tune.heads.base.RouterHead",
    "losses": "moe_tune.losses.base.AuxLoss",
    "metrics": "moe_tune.metrics.base.RoutingMetric",
    "families": "moe_tune.models.family.ModelFamily",
    "sources": "moe_tune.data.source.QuestionSource",
    "texts": "moe_tune.data.text_source.TextSource",
    "short_answers": "moe_tune.data.short_answer_source.ShortAnswerSource",
    "criteria": "moe_tune.criteria.base.Criterion",
}
"""The class whose subclasses are plugged in, by kind; imported when asked for, as torch is."""
KINDS = (*PLUGGED, "protocols")
"""What can be listed."""


def summary(text: str) -> str:
    r"""Return a docstring's first paragraph on one line.

    Example:
        >>> summary("Sharpens the\ngate.\n\nFormula: x")
        'Sharpens the gate.'
    """
    return " ".join(text.split("\n\n", 1)[0].split())


def reference(text: str) -> str:
    r"""Return a docstring's Reference section on one line, or nothing.

    Example:
        >>> reference("One.\n\nReference:\n    Chernov 2025,\n    arXiv.\n\nExample:\n    >>> 1")
        'Chernov 2025, arXiv.'
    """
    _, _, section = text.partition("Reference:\n")
    return " ".join(section.split("\n\n", 1)[0].split())


def formula(text: str) -> str:
    r"""Return the paragraph of a docstring that holds the formula, on one line and without its back quotes, or nothing.

    Example:
        >>> formula("One.\n\nFormula: ``w = p\n/ q``.\n\nArgs:\n    p: x")
        'Formula: w = p / q.'
    """
    paragraphs = (" ".join(part.split()) for part in text.split("\n\n"))
    return next((part.replace("`", "") for part in paragraphs if part.startswith("Formula")), "")


def entries(kind: str) -> list[dict[str, str]]:
    """Return name, summary and reference of everything of a kind."""
    if kind == "protocols":
        from moe_tune.data.protocol import known_protocols, load_protocol

        names = known_protocols()
        return [{"name": name, "summary": load_protocol(name).description, "reference": ""} for name in names]
    if kind == "families":
        from moe_tune.models.family_row import families_table

        return [
            {"name": row["model_type"], "summary": _of_family(row), "reference": "", **row} for row in families_table()
        ]
    texts = {name: inspect.getdoc(one) or "" for name, one in _classes(kind).items()}
    return [{"name": name, "summary": summary(text), "reference": reference(text)} for name, text in texts.items()]


def options(kind: str, name: str | None) -> list[str]:
    """Return the options of a class of a kind; none if there is no such class.

    Example:
        >>> options("heads", "TemperatureHead")[:2]
        ['tau', 'mode']
    """
    known = _classes(kind)
    return [*inspect.signature(known[name]).parameters] if name in known else []


def known_classes() -> list[type]:
    """Return every class that is plugged in now, of the package, of plug-in files and of the user's own program."""
    return [one for kind in PLUGGED for one in _classes(kind).values()]


def _of_family(row: dict[str, str]) -> str:
    """Return what is known of a model type in one line."""
    if "refused" in row:
        return f"Not served: {row['refused']}."
    way = "answer path" if row["answer_path"] == "yes" else f"full prompts alone ({row['answer_path']})"
    return f"{row['weights'][0].upper()}{row['weights'][1:]}, by {row['decides']}; {way}."


def _classes(kind: str) -> dict[str, type]:
    module, _, name = PLUGGED[kind].rpartition(".")
    return concrete_subclasses(getattr(import_module(module), name))
