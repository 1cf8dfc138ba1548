"""What an arm's routers did on a split: entropies by layer and how often each expert was used. Associational."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.compare.runs import Run
from moe_tune.runs.metrics_file import logged_rows
from moe_tune.stats.never_activated import never_bound

SCOPE = "answer"
"""Routing is summed up at the position where the letter is predicted."""


@dataclass(frozen=True, slots=True, eq=False)
class RoutingSummary:
    """Routing at the answer position, averaged over an arm's seeds.

    Attributes:
        layers: Layer numbers.
        entropy_all_L: Entropy over all experts per layer, nats.
        entropy_topk_L: Entropy over the chosen experts per layer, nats.
        entropy_topk_most_L: The mean of the most it can be, ln K where every question uses K experts.
        usage_LE: Share of questions routed to each expert, 0 to 1.
        never_share: Share of (layer, expert) pairs that no question was routed to, mean over seeds.
        never_bound: How often, as a share of questions, such an expert may still fire: simultaneous 95 % bound.
        tokens: Answer positions per seed, one per question.
    """

    layers: tuple[int, ...]
    entropy_all_L: NDArray[np.float64]
    entropy_topk_L: NDArray[np.float64]
    entropy_topk_most_L: NDArray[np.float64]
    usage_LE: NDArray[np.float64]
    never_share: float
    never_bound: float
    tokens: int

    @property
    def entropy_topk(self) -> float:
        """Entropy over the chosen experts, mean over layers, nats."""
        return float(self.entropy_topk_L.mean())


def summarise_routing(tables: Sequence[pd.DataFrame]) -> RoutingSummary | None:
    """Average the routing records of an arm's seeds at the answer position.

    Returns:
        ``None`` if the records do not cover the answer position.
    """
    seeds = [table[table["scope"] == SCOPE] for table in tables]
    if any(table.empty for table in seeds):
        return None
    by_layer = [table.groupby("layer").first() for table in seeds]
    counts = [table.pivot_table(index="layer", columns="expert", values="count", fill_value=0) for table in seeds]
    usage = [
        count.to_numpy(dtype=np.float64) / layer["tokens"].to_numpy()[:, None]
        for count, layer in zip(counts, by_layer, strict=True)
    ]
    tokens = int(by_layer[0]["tokens"].iloc[0])
    return RoutingSummary(
        layers=tuple(int(layer) for layer in by_layer[0].index),
        entropy_all_L=np.mean([layer["entropy_all_mean"] for layer in by_layer], axis=0),
        entropy_topk_L=np.mean([layer["entropy_topk_mean"] for layer in by_layer], axis=0),
        entropy_topk_most_L=np.mean(
            [layer.get("entropy_topk_most", np.log(each.sum(1))) for layer, each in zip(by_layer, usage, strict=True)],
            axis=0,
        ),  # runs of before it was recorded had K experts for every token, or the mean number is the best known
        usage_LE=np.mean(usage, axis=0),
        never_share=float(np.mean([(count.to_numpy() == 0).mean() for count in counts])),
        never_bound=never_bound(tokens, counts[0].size),
        tokens=tokens,
    )


def acting_share(runs: Sequence[Run], split: str) -> float | None:
    """Return on which share of a split's questions an arm's heads acted, where they choose; mean over seeds."""
    rows = [[row for row in logged_rows(run.path / "metrics.jsonl") if f"{split}/acting_share" in row] for run in runs]
    if not all(rows):
        return None
    return float(np.mean([own[-1][f"{split}/acting_share"] for own in rows]))


def routing_shift(before: RoutingSummary | None, after: RoutingSummary | None) -> float | None:
    """Return which share of routed slots must go to other experts for one usage to become the other, 0 to 1.

    Formula, u the usage of a layer divided by its sum: ``mean_l sum_e |u_le - u'_le| / 2``. A lower bound of the share
    of slots that changed, as changes that cancel over questions are not seen.

    Returns:
        ``None`` where either was not recorded, or they have other layers or experts.
    """
    if before is None or after is None or before.usage_LE.shape != after.usage_LE.shape:
        return None
    first_LE, second_LE = (one.usage_LE / one.usage_LE.sum(axis=1, keepdims=True) for one in (before, after))
    return float(np.abs(first_LE - second_LE).sum(axis=1).mean() / 2)
