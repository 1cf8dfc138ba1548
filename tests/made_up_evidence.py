"""A routing table as an evaluation writes it, of random routing; questions and answers fit together."""

import numpy as np
import pandas as pd


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
            for expert in range(experts):
                rows.append(
                    {
                        "scope": scope,
                        "layer": layer,
                        "expert": expert,
                        "count": count_E[expert],
                        "weight_mass": 0.1 * count_E[expert],
                        "tokens": questions,
                        "questions": count_E[expert],
                        "correct": correct_E[expert],
                        "entropy_all_mean": 1.5 + 0.1 * layer,
                        "entropy_all_std": 0.1,
                        "entropy_topk_mean": 0.6 - 0.05 * layer,
                        "entropy_topk_std": 0.02,
                        "entropy_topk_most": np.log(top_k),
                    }
                )
    return pd.DataFrame(rows)
