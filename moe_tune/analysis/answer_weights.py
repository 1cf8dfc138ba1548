"""The weight that each question's answer token gives each expert, and the committees found in it."""

import numpy as np
import pandas as pd
from statsmodels.stats.multitest import multipletests

from moe_tune.data.batching import Batch
from moe_tune.metrics.base import MetricShape
from moe_tune.routing import RoutingTrace
from moe_tune.stats.committee import FEWEST_SUBJECTS, committee
from moe_tune.tuner.judged import Judged


class AnswerWeights:
    """Keeps of every answered question the weight of each expert of each layer, 0 where it was not chosen.

    Args:
        shape: Layers, experts and questions of the split.
    """

    needs = frozenset[str]()
    reads_mass = False

    def __init__(self, shape: MetricShape) -> None:
        self.layers, self.top_k = shape.layers, shape.top_k
        self.weights_QLE = np.zeros(shape.sizes("QLE"), dtype=np.float32)

    def add(self, trace: RoutingTrace, batch: Batch, judged: Judged) -> None:
        question_T = batch.question_B[trace.question_T[trace.answer_T]].cpu().numpy()
        for output in trace.at("answer"):
            weights_TK, experts_TK = (one.cpu().numpy() for one in (output.weights_TK.float(), output.experts_TK))
            # Added up: a choice's text under a cloze protocol has several tokens, and a spare slot weighs nothing.
            np.add.at(
                self.weights_QLE[:, self.layers.index(output.layer)], (question_T[:, None], experts_TK), weights_TK
            )


def committee_frame(weights: AnswerWeights, questions: pd.DataFrame, draws: int, seed: int) -> pd.DataFrame:
    """Return the committee of each layer, one row each; no row where there are fewer than two subjects.

    Of the questions of one text in a subject only the first is read. ``p_holm`` is corrected over layers, and a
    committee is ``claimed`` where it is below 0.05.

    Args:
        weights: The weights of every question.
        questions: ``subject`` and ``content_hash`` of each, in the same order.
        draws: Draws of the null without shared experts.
        seed: Their seed.
    """
    kept = ~questions.duplicated(["subject", "content_hash"]).to_numpy()
    subject_Q, names = questions.loc[kept, "subject"].factorize()
    if len(names) < FEWEST_SUBJECTS:
        return pd.DataFrame()
    found = [
        committee(weights.weights_QLE[kept, place].astype(np.float64), subject_Q, weights.top_k, draws, seed)
        for place in range(len(weights.layers))
    ]
    adjusted_L = multipletests([one.p for one in found], method="holm")[1]
    return pd.DataFrame(
        {
            "layer": weights.layers,
            "questions": int(kept.sum()),
            "subjects": len(names),
            "members": [" ".join(map(str, one.members)) or "none" for one in found],
            "size": [len(one.members) for one in found],
            "coverage": [one.coverage for one in found],
            "coverage_null_high": [one.chance_high for one in found],
            "p": [one.p for one in found],
            "p_holm": adjusted_L,
            "claimed": [bool(one.members) and adjusted < 0.05 for one, adjusted in zip(found, adjusted_L, strict=True)],
            "overlap": [one.overlap for one in found],
            "overlap_alike_low": [one.alike_low for one in found],
            "overlap_alike_high": [one.alike_high for one in found],
            "evidence": "associational",
        }
    )
