"""Weighted accuracy: the experts go first whose weight went to questions that were answered wrongly."""

from moe_tune.criteria.base import Criterion, ExpertEvidence, Scores


class WeightedAccuracy(Criterion):
    """Lets the experts go whose routing weight went to wrongly answered questions most.

    Formula: ``s_i = sum_t w_ti c_t / sum_t w_ti``, over the tokens that chose expert i, ``c_t`` 1 where the token's
    question was answered correctly; an expert that nobody chose goes first. It is an association, which subjects
    confound: an expert of hard questions is no worse for that.

    Reference:
        Chernov 2025, https://arxiv.org/abs/2502.17187 (the suggestion); as a criterion this project's.
    """

    def scores(self, evidence: ExpertEvidence) -> Scores:
        return evidence.mean("mass_correct", "weight_mass")
