"""A routing table as an evaluation writes it, of random routing; questions and answers fit together."""

import numpy as np
import pandas as pd

from moe_tune.base.plugins import concrete_subclasses
from moe_tune.metrics.base import RoutingMetric


def made_up_evidence(layers=3, experts=8, top_k=2, questions=400, scopes=("answer",), seed=0):
    """Return one row per scope, layer and expert; every layer sees the same questions, as in a run."""
    draw = np.random.default_rng(seed)
    correct_Q = draw.random(questions) < 0.6
    rows = []
    for scope in scopes:
        for layer in range(layers):
            # Few experts take most questions, so that some get few and some none.
            liking_E = np.log(draw.dirichlet(np.full(experts, 0.1)) + 1e-9)
            chosen_QK = np.argsort(-(liking_E + draw.gumbel(size=(questions, experts))), axis=1)[:, :top_k]
            count_E = np.bincount(chosen_QK.ravel(), minlength=experts)
            correct_E = np.bincount(chosen_QK[correct_Q].ravel(), minlength=experts)
            rows.append({
                "scope": scope, "layer": layer, "expert": range(experts), "count": count_E, "questions": count_E,
                "weight_mass": 0.1 * count_E, "tokens": questions, "correct": correct_E,
                "entropy_topk_most": np.log(top_k),
                "entropy_all_std": 0.1, "entropy_topk_mean": 0.6 - 0.05 * layer, "entropy_topk_std": 0.02,
                "entropy_all_mean": 1.5 + 0.1 * layer,
            })  # fmt: skip
    return pd.concat(map(pd.DataFrame, rows), ignore_index=True)


def with_every_metric(frame):
    """Return a table with a column for every metric's value of a layer."""
    names = [
        name for kind in concrete_subclasses(RoutingMetric).values() for name, axes in kind.axes.items() if axes == "L"
    ]
    return frame.assign(**{name: 0.25 * frame["layer"] for name in names if name not in frame})
