"""Made-up answers of two arms with a known difference: what ``calibration.py`` compares."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from moe_tune.stats.paired import PairedResult, compare_paired

BASE = 0.5
"""Share of questions that the baseline answers."""


@dataclass(frozen=True, slots=True)
class Arms:
    """How answers are drawn.

    Args:
        questions: Questions compared.
        discordance: Share of questions on which an arm's answer differs from the baseline's.
        diff: True difference of the accuracies, a fraction.
        seeds: Seeds of the arm.
        spread: Standard deviation of a seed's own true difference around ``diff``, a fraction.
        per_cluster: Questions of a cluster, of which four in five change together; 1 for independent questions.
        shared: Share of questions whose change is one draw for all seeds.
    """

    questions: int = 1000
    discordance: float = 0.1
    diff: float = 0.0
    seeds: int = 1
    spread: float = 0.0
    per_cluster: int = 1
    shared: float = 0.5

    def drawn(self, draws: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.float64]]:
        """Return which questions the baseline answers, and for each seed which were lost (-1) and gained (1)."""
        groups, seeds = self.questions // self.per_cluster, self.seeds
        right_G, common_G = draws.random(groups) < BASE, draws.random(groups)
        luck_SG = np.where(draws.random(groups) < self.shared, common_G, draws.random((seeds, groups)))
        own_S1 = self.diff + self.spread * draws.standard_normal((seeds, 1))
        own_S1 = np.clip(own_S1, -self.discordance, self.discordance)
        lost_S1, gained_S1 = (self.discordance - own_S1) / 2, (self.discordance + own_S1) / 2
        change_SG = np.where(right_G, -1.0 * (luck_SG < lost_S1 / BASE), luck_SG < gained_S1 / (1 - BASE))
        right_Q, change_SQ = right_G.repeat(self.per_cluster), change_SG.repeat(self.per_cluster, axis=1)
        if self.per_cluster > 1:
            change_SQ = np.where(draws.random(change_SQ.shape) < 0.2, 0.0, change_SQ)
        return right_Q, change_SQ

    @property
    def clusters(self) -> NDArray[np.intp]:
        """The cluster of each question."""
        return np.arange(self.questions) // self.per_cluster

    def compared(self, draws: np.random.Generator) -> tuple[PairedResult, NDArray[np.float64]]:
        """Return one comparison, and the differences it was made of."""
        right_Q, change_SQ = self.drawn(draws)
        subjects, seeds = ["all"] * self.questions, list(range(self.seeds))
        after_SQ = right_Q + change_SQ > 0
        return compare_paired(right_Q[None], after_SQ, [*map(str, self.clusters)], subjects, seeds), change_SQ

    def many(self, count: int, seed: int | list[int]) -> Iterator[tuple[PairedResult, NDArray[np.float64]]]:
        """Yield that many independent comparisons."""
        draws = np.random.default_rng(seed)
        for _ in range(count):
            yield self.compared(draws)
