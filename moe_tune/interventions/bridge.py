"""The bridge: whether what can be observed of experts ranks them as what happens without them does."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.interventions.effects import Differences
from moe_tune.interventions.plan import Kind, single
from moe_tune.interventions.untouched import LayerFacts, Untouched
from moe_tune.stats.accuracy_estimates import risk_difference
from moe_tune.stats.rank_correlation import DRAWS, Statistic, rank_correlation
from moe_tune.stats.ratios import Floats, ratio
from moe_tune.stats.shrinkage import moment_weight

METRICS = {
    "usage": "share of questions routed to it",
    "mean weight": "mean of its weight over all questions, 0 where it is not chosen",
    "weight if chosen": "mean of its weight over the questions routed to it",
    "saliency": "mean of weight times norm of its output over the questions routed to it (REAP's score)",
    "accuracy": "share of those questions answered correctly",
    "weighted accuracy": "share of its weight that went to correctly answered questions",
    "shrunk accuracy": "accuracy drawn towards the layer's mean, the fewer its questions the more",
    "risk difference": "how much more often it is chosen on correctly answered questions than on others",
}
"""What is observed of an expert at the answer position, in words."""


def bridge_frame(
    kind: Kind,
    experts: Mapping[int, Sequence[int]],
    found: Differences,
    untouched: Untouched,
    cluster_Q: NDArray[np.intp],
    draws: int = DRAWS,
) -> pd.DataFrame:
    """Return the rank correlation of each observed metric with the size of the effect, a row per layer and metric.

    The effect is the absolute mean change of the right letter's log-probability over all questions.

    Args:
        kind: Which intervention.
        experts: The experts of each layer that it was carried out on.
        found: What it changed.
        untouched: What the model does by itself.
        cluster_Q: Number of the group of equal questions each belongs to.
        draws: Bootstrap draws of questions.
    """
    rows = []
    for layer, some in experts.items():
        change_QE = np.stack([found.log_prob[single(kind, layer, expert)] for expert in some], axis=1)

        def size(times_Q: Floats, change_QE: Floats = change_QE) -> Floats:
            return np.abs(ratio(times_Q @ change_QE, np.array(times_Q.sum())))

        for name, metric in observed(untouched.layers[layer], untouched, list(some)).items():
            one = rank_correlation(metric, size, cluster_Q, draws)
            rows.append(
                {"layer": layer, "metric": name, "spearman": one.value, "low": one.low, "high": one.high}
                | {"experts": one.experts, "questions": len(cluster_Q)}
            )
    return pd.DataFrame(rows, columns=["layer", "metric", "spearman", "low", "high", "experts", "questions"])


def observed(facts: LayerFacts, untouched: Untouched, experts: list[int]) -> dict[str, Statistic]:
    """Return the metrics of a layer's experts, each a function of how often every question is counted."""
    chosen_QE, weight_QE, saliency_QE = (
        one[:, experts].double().numpy() for one in (facts.chosen_QE, facts.weight_QE, facts.saliency_QE)
    )
    correct_Q = untouched.correct_Q.double().numpy()

    def shrunk(times_Q: Floats) -> Floats:
        right_E, asked_E = (times_Q * correct_Q) @ chosen_QE, times_Q @ chosen_QE
        weight = moment_weight(right_E, asked_E)
        mean = right_E.sum() / max(asked_E.sum(), 1.0)
        if weight is None:
            return np.where(asked_E > 0, mean, np.nan)
        return np.where(asked_E > 0, (right_E + weight * mean) / (asked_E + weight), np.nan)

    def difference(times_Q: Floats) -> Floats:
        right_E, asked_E = (times_Q * correct_Q) @ chosen_QE, times_Q @ chosen_QE
        return risk_difference(right_E, asked_E, (times_Q * correct_Q).sum(), times_Q.sum())

    return {
        "usage": lambda times_Q: ratio(times_Q @ chosen_QE, np.array(times_Q.sum())),
        "mean weight": lambda times_Q: ratio(times_Q @ weight_QE, np.array(times_Q.sum())),
        "weight if chosen": lambda times_Q: ratio(times_Q @ weight_QE, times_Q @ chosen_QE),
        "saliency": lambda times_Q: ratio(times_Q @ saliency_QE, times_Q @ chosen_QE),
        "accuracy": lambda times_Q: ratio((times_Q * correct_Q) @ chosen_QE, times_Q @ chosen_QE),
        "weighted accuracy": lambda times_Q: ratio((times_Q * correct_Q) @ weight_QE, times_Q @ weight_QE),
        "shrunk accuracy": shrunk,
        "risk difference": difference,
    }
