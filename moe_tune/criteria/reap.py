"""REAP: the experts go first that add least to what their tokens become."""

from typing import ClassVar

from moe_tune.criteria.base import Criterion, ExpertEvidence, Need, Scores


class Reap(Criterion):
    """Lets the experts go whose weighted outputs are smallest.

    Formula: ``s_i = mean_t w_ti |f_i(h_t)|``, over the tokens of the scope that chose expert i; one that nobody chose
    goes first. Its pass runs whole prompts, and the chosen experts a second time.

    Reference:
        Lasby et al. 2025, "REAP the Experts", https://arxiv.org/abs/2510.13999; its code was not run for this.
    """

    needs: ClassVar[frozenset[Need]] = frozenset({"routing", "norms"})

    def scores(self, evidence: ExpertEvidence) -> Scores:
        return evidence.mean("norm_sum", "count")
