"""At random: the control of every other criterion."""

from typing import ClassVar

import numpy as np

from moe_tune.base.errors import require
from moe_tune.criteria.base import Criterion, ExpertEvidence, Need, Scores


class AtRandom(Criterion):
    """Lets experts go by lot, other ones in each layer: what any criterion has to be better than.

    Formula: ``s_i`` is uniform in [0, 1), drawn anew for each layer. More go with a larger number: of one seed, fewer
    are a part of more.

    Args:
        seed: Seed of the draw, from 0.

    Raises:
        ConfigError: The seed is below 0.

    Reference:
        This project's.
    """

    needs: ClassVar[frozenset[Need]] = frozenset()

    def __init__(self, seed: int = 0) -> None:
        require(seed >= 0, "a seed from 0", seed, "criterion.seed", "the default is 0.")
        self.seed = seed

    def scores(self, evidence: ExpertEvidence) -> Scores:
        rows = [np.random.default_rng([self.seed, layer]).random(evidence.num_experts) for layer in evidence.layers]
        scores_LE: Scores = np.stack(rows)
        return scores_LE
