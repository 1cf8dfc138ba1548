"""What can be plugged in, kind by kind, with one line and the paper each."""

import inspect
from collections.abc import Callable

from moe_tune.base.plugins import concrete_subclasses


def described(classes: dict[str, type]) -> list[dict[str, str]]:
    """Return name, first sentence and reference of each class's docstring.

    Args:
        classes: Classes by short name.
    """
    return [
        {"name": name, "summary": summary(inspect.getdoc(one) or ""), "reference": reference(inspect.getdoc(one) or "")}
        for name, one in classes.items()
    ]


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


def _heads() -> list[dict[str, str]]:
    from moe_tune.heads.base import RouterHead

    return described(concrete_subclasses(RouterHead))


def _losses() -> list[dict[str, str]]:
    from moe_tune.losses.base import AuxLoss

    return described(concrete_subclasses(AuxLoss))


def _metrics() -> list[dict[str, str]]:
    from moe_tune.metrics.base import RoutingMetric

    return described(concrete_subclasses(RoutingMetric))


def _families() -> list[dict[str, str]]:
    from moe_tune.models.family import ModelFamily

    return described(concrete_subclasses(ModelFamily))


def _sources() -> list[dict[str, str]]:
    from moe_tune.data.source import QuestionSource

    return described(concrete_subclasses(QuestionSource))


def _protocols() -> list[dict[str, str]]:
    from moe_tune.data.protocol import known_protocols, load_protocol

    return [{"name": name, "summary": load_protocol(name).description, "reference": ""} for name in known_protocols()]


KINDS: dict[str, Callable[[], list[dict[str, str]]]] = {
    "heads": _heads,
    "losses": _losses,
    "metrics": _metrics,
    "families": _families,
    "sources": _sources,
    "protocols": _protocols,
}
