"""Frequency: the experts that fewest tokens choose go first."""

from moe_tune.criteria.base import Criterion, ExpertEvidence, Scores


class Frequency(Criterion):
    """Lets the experts go that fewest tokens chose.

    Formula: ``s_i = n_i``, the tokens of the scope that chose expert i. Usage is an observation: an expert that few
    tokens choose may still be the one that they need.

    Reference:
        Muzio et al. 2024, "SEER-MoE", https://arxiv.org/abs/2404.05089, counts as one of its heavy-hitters criteria;
        the paper was not read for this.
    """

    def scores(self, evidence: ExpertEvidence) -> Scores:
        return evidence.column("count")
