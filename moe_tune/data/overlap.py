"""Which test sources are not out of distribution, because training questions come from the same collections."""

from collections.abc import Iterable, Mapping
from typing import Any

from moe_tune.data.protocol import AUXILIARY

HUB_COLLECTIONS = frozenset({"ai2_arc", "arc", "openbookqa", "race", "mctest"})
"""Names of data sets on the Hub, without their owners, from which MMLU's ``auxiliary_train`` was built.

Reference:
    Hendrycks et al. 2021, Measuring Massive Multitask Language Understanding, arXiv 2009.03300.
"""
NAMES = {AUXILIARY: "auxiliary_train"}
"""What people call the training questions of a subject."""


def hub_origins(path: str) -> frozenset[str]:
    """Return the training subjects that come from the same collection as a data set of the Hub.

    Example:
        >>> hub_origins("allenai/ai2_arc"), hub_origins("TIGER-Lab/MMLU-Pro")
        (frozenset({'auxiliary'}), frozenset())
    """
    return frozenset({AUXILIARY}) if path.rpartition("/")[2].lower() in HUB_COLLECTIONS else frozenset()


def not_out_of_distribution(trained: Iterable[str], origins: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Return the test splits that training on some subjects brings into distribution, and what was trained on.

    Args:
        trained: Subjects of the training questions.
        origins: For each test split the training subjects that come from the same collections.

    Example:
        >>> not_out_of_distribution(["auxiliary"], {"test_arc": ["auxiliary"], "test_piqa": []})
        {'test_arc': 'auxiliary_train'}
    """
    found = {name: sorted(set(trained) & set(known)) for name, known in origins.items()}
    return {name: ", ".join(NAMES.get(one, one) for one in shared) for name, shared in found.items() if shared}


def recorded(data: Mapping[str, Any]) -> dict[str, str]:
    """Return the same of a manifest's ``data``, which several verbs may have written."""
    trained = data.get("splits", {}).get("train", {}).get("subjects", {})
    sources = data.get("test_sources", {})
    return not_out_of_distribution(trained, {name: one.get("same_origin_as", ()) for name, one in sources.items()})
