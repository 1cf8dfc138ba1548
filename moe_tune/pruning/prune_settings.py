"""How a model is to be pruned."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from moe_tune.criteria.base import Criterion
from moe_tune.routing import Scope

How = Literal["mask", "remove"]
Source = Literal["quiz", "text"]
"""What a repair learns from: the training questions, or ``data.text``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PruneSettings:
    """How a model is to be pruned.

    Args:
        criterion: Which experts go.
        out: A new folder: the pruned model's, or of the configuration that masks.
        share: Share of each layer's experts that go; or
        count: how many of each layer. Without both, all that the criterion lets go.
        how: ``mask`` leaves the weights and never chooses the experts; ``remove`` writes a smaller model.
        scope: Which tokens count for the choice.
        split: Whose questions it is made on: ``train``, or ``validation``, which then judges nothing.
        top_k: Experts per token afterwards; ``None`` keeps K.
        test: Whether the quiz's test split is opened, too.
        repair: Whether the routers are tuned afterwards with the model before as teacher, and on what.
    """

    criterion: Criterion
    out: Path
    share: float | None = None
    count: int | None = None
    how: How = "remove"
    scope: Scope = "all"
    split: Literal["train", "validation"] = "train"
    top_k: int | None = None
    test: bool = False
    repair: Source | None = None
