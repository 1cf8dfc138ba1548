"""Never activated: only experts that no token has chosen go."""

import numpy as np

from moe_tune.criteria.base import Criterion, ExpertEvidence, Scores
from moe_tune.stats.never_activated import never_bound


class NeverActivated(Criterion):
    """Lets only experts go that no token of the scope has chosen.

    Formula: ``s_i = 0`` where no token chose expert i, else it stays. "Never" is within the questions that were seen:
    the upper 95 % bound of the share of questions on which such an expert fires stands beside the choice.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187 (the suggestion); the bound is that of ``stats``.
    """

    def scores(self, evidence: ExpertEvidence) -> Scores:
        scores_LE: Scores = np.where(evidence.column("count") == 0, 0.0, np.inf)
        return scores_LE

    def note(self, evidence: ExpertEvidence) -> str:
        every = len(evidence.layers) * evidence.num_experts
        bound = never_bound(evidence.questions, every)
        return (
            f"Never activated within {evidence.questions:,} questions ({evidence.split}, scope {evidence.scope}): "
            f"with 95 % confidence none of them fires on more than {bound:.2%} of such questions ({every:,} experts "
            "at once)."
        )
