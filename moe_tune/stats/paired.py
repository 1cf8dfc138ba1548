"""The paired comparison of one arm, run with one or several seeds, against the baseline on the same questions."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from moe_tune.base.errors import DataError
from moe_tune.stats.decision import FEWEST_SEEDS, MARGIN, Word, decide
from moe_tune.stats.mcnemar import mcnemar
from moe_tune.stats.never_activated import never_bound
from moe_tune.stats.power import smallest_detectable
from moe_tune.stats.standard_error import (
    FEW_CLUSTERS,
    cluster_p,
    cluster_se,
    cluster_sums,
    critical_value,
    equivalence_p,
    macro_sums,
    paired_se,
    total_se,
)

NO_SUBJECT = "auxiliary"
"""Questions without a subject stay out of macro averages."""


@dataclass(frozen=True, slots=True)
class PairedResult:
    """What the paired comparison of an arm with the baseline says; accuracies and differences are fractions.

    Attributes:
        n: Questions compared.
        clusters: Groups of questions with equal content.
        baseline_accuracy: Share the baseline answered correctly.
        accuracy: The same of the arm, mean over seeds.
        diff: ``accuracy - baseline_accuracy``.
        se: Standard error over clusters and, from five seeds on, over seeds.
        df: Its degrees of freedom.
        ci95: 95 % interval of ``diff``.
        ci90: 90 % interval of ``diff``, for the equivalence test; where no cluster changed, the exact binomial bound on
            the share that does, which is under one point from 299 different questions on.
        p: Exact McNemar test of the median seed, two-sided; where content repeats, the cluster-robust test.
        midp: Mid-p McNemar test of the median seed; where content repeats, the cluster-robust test.
        p_equivalence: Two one-sided tests that ``diff`` lies within one point around 0.
        n01: Questions only the median seed's run answered correctly.
        n10: Questions only the baseline answered correctly against it.
        discordance: Share of (question, seed) pairs on which arm and baseline differ.
        detectable: Smallest difference that as many questions with this discordance find in 80 % of cases at 5 %.
        se_paired: Standard error that takes the questions as independent.
        design_effect: Squared ratio of the cluster-robust to that standard error.
        macro_diff: Mean of the subjects' differences; ``None`` with fewer than two subjects.
        macro_ci95: Its 95 % interval.
        seeds: Seeds of the arm, ascending.
        seed_diffs: Difference of each seed.
        median_seed: Seed with the (lower) median difference.
        decision: ``improved``, ``worse``, ``equivalent`` or ``inconclusive``.
        note: What belongs beside the decision, such as "this router only".
    """

    n: int
    clusters: int
    baseline_accuracy: float
    accuracy: float
    diff: float
    se: float
    df: float
    ci95: tuple[float, float]
    ci90: tuple[float, float]
    p: float
    midp: float
    p_equivalence: float
    n01: int
    n10: int
    discordance: float
    detectable: float
    se_paired: float
    design_effect: float
    macro_diff: float | None
    macro_ci95: tuple[float, float] | None
    seeds: tuple[int, ...]
    seed_diffs: tuple[float, ...]
    median_seed: int
    decision: Word
    note: str

    @property
    def unchanged(self) -> bool:
        """Whether no answer was gained or lost: nothing spreads then, which no interval of width 0 should tell."""
        return self.discordance == 0

    @property
    def told_ci95(self) -> tuple[float, float]:
        """The 95 % interval that people are told: ``ci95``, or the exact bound where no answer was gained or lost.

        Formula: ``+- (1 - 0.05^(1 / clusters))``: a larger share of questions whose answer changes, were there one,
        would have shown among these in 95 % of cases, and the difference is at most that share.
        """
        bound = never_bound(self.clusters)
        return (-bound, bound) if self.unchanged else self.ci95

    @property
    def interval_method(self) -> str:
        """How the interval was made."""
        if self.unchanged:
            return "exact binomial bound, as no answer was gained or lost"
        quantile = "t" if self.clusters >= FEW_CLUSTERS else "wild cluster bootstrap"
        few = " over questions, of these routers only" if len(self.seeds) > 1 else ""
        over_seeds = " and spread over seeds" if len(self.seeds) >= FEWEST_SEEDS else few
        return f"{quantile} with cluster-robust standard error{over_seeds}"

    @property
    def test(self) -> str:
        """How the p value was made."""
        name = "exact McNemar test" if self.clusters == self.n else "cluster-robust test, as content repeats"
        return f"{name}, two-sided"

    @property
    def method(self) -> str:
        """The sentence that says how the figures were reached."""
        several = len(self.seeds) > 1
        return (
            f"n = {self.n:,} paired questions in {self.clusters:,} clusters of equal content, "
            f"seed{'s' if several else ''} {', '.join(map(str, self.seeds))}; 95 % interval: {self.interval_method}; "
            f"p: {self.test}, seed {self.median_seed}{' (the median one)' if several else ''}; smallest difference "
            f"found in 80 % of cases: {100 * self.detectable:.2f} points."
        )


def compare_paired(
    baseline_SQ: NDArray[np.bool_],
    arm_SQ: NDArray[np.bool_],
    clusters: Sequence[str],
    subjects: Sequence[str],
    seeds: Sequence[int],
) -> PairedResult:
    """Compare the runs of one arm with the baseline, question by question.

    Formula: ``D = mean_i mean_s (b_is - a_is)``; its interval is ``D +- t_df SE`` with the standard error of
    ``total_se``, never beyond -1 to 1; below five seeds with that of the clusters alone.

    Args:
        baseline_SQ: Whether the baseline was right; one row for all seeds, or one per seed.
        arm_SQ: Whether the arm was right; one row per seed.
        clusters: Content hash of each question; equal hashes are one cluster.
        subjects: Subject of each question.
        seeds: Seed of each row of ``arm_SQ``, distinct.

    Raises:
        DataError: All questions are the same one, so that nothing can be said about others.
    """
    order = np.argsort(np.asarray(seeds))
    sorted_seeds = tuple(int(seeds[i]) for i in order)
    right_SQ = arm_SQ[order]
    before_SQ = np.broadcast_to(baseline_SQ if len(baseline_SQ) == 1 else baseline_SQ[order], right_SQ.shape)
    diff_SQ = right_SQ.astype(np.float64) - before_SQ
    diff_Q, diff_S = diff_SQ.mean(axis=0), diff_SQ.mean(axis=1)

    cluster_Q = pd.factorize(np.asarray(clusters, dtype=object), sort=True)[0]
    sums_C = cluster_sums(diff_Q, cluster_Q)
    if len(sums_C) < 2:
        raise DataError(
            f"expected at least two different questions but got {len(sums_C)} (comparison). "
            f"Hint: evaluate a larger split."
        )
    diff = float(diff_Q.mean())
    se, df, ci95 = _interval(0.95, diff, sums_C, diff_S)
    ci90 = _interval(0.90, diff, sums_C, diff_S)[2]
    if not sums_C.any():
        # Nothing changed, or it cancels in each cluster, so nothing spreads; by the exact binomial bound less than this
        # share of clusters may change elsewhere.
        share = 1 - 0.05 ** (1 / len(sums_C))
        ci90 = (-share, share)
        p_equivalence = float((1 - MARGIN) ** len(sums_C))
    else:
        p_equivalence = equivalence_p(diff, se, df, MARGIN)
    se_paired = paired_se(diff_Q)
    design_effect = (cluster_se(sums_C) / se_paired) ** 2 if se_paired > 0 else 1.0
    discordance = float(np.mean(diff_SQ != 0))
    macro_diff, macro_ci95 = _macro(diff_SQ, cluster_Q, subjects)

    # The lower median; among seeds that tie, the lowest.
    median = int(np.argmax(diff_S == np.sort(diff_S)[(len(diff_S) - 1) // 2]))
    n01 = int(np.sum(diff_SQ[median] > 0))
    n10 = int(np.sum(diff_SQ[median] < 0))
    p, midp = mcnemar(n01, n10)
    if len(sums_C) < len(diff_Q):
        # McNemar's test takes questions as independent: with each of them four times it rejects 30 % of true nulls.
        p = midp = cluster_p(float(diff_S[median]), cluster_sums(diff_SQ[median], cluster_Q))
    decision, note = decide(ci95, ci90, midp, len(sorted_seeds))
    return PairedResult(
        n=len(diff_Q),
        clusters=len(sums_C),
        baseline_accuracy=float(before_SQ.mean()),
        accuracy=float(right_SQ.mean()),
        diff=diff,
        se=se,
        df=df,
        ci95=ci95,
        ci90=ci90,
        p=p,
        midp=midp,
        p_equivalence=p_equivalence,
        n01=n01,
        n10=n10,
        discordance=discordance,
        detectable=smallest_detectable(len(diff_Q), discordance, design_effect or 1.0),
        se_paired=se_paired,
        design_effect=design_effect,
        macro_diff=macro_diff,
        macro_ci95=macro_ci95,
        seeds=sorted_seeds,
        seed_diffs=tuple(map(float, diff_S)),
        median_seed=sorted_seeds[median],
        decision=decision,
        note=note,
    )


def _interval(
    level: float, diff: float, sums_C: NDArray[np.float64], diff_S: NDArray[np.float64]
) -> tuple[float, float, tuple[float, float]]:
    # Below five seeds there is no interval over seeds: this one speaks of the routers at hand.
    spread_S = diff_S if len(diff_S) >= FEWEST_SEEDS else diff_S.mean(keepdims=True)
    se, df = total_se(cluster_se(sums_C), len(sums_C), spread_S)
    reach = critical_value(level, df, sums_C) * se
    return se, df, (max(-1.0, diff - reach), min(1.0, diff + reach))


def _macro(
    diff_SQ: NDArray[np.float64], cluster_Q: NDArray[np.intp], subjects: Sequence[str]
) -> tuple[float | None, tuple[float, float] | None]:
    names = np.asarray(subjects, dtype=object)
    kept_Q = names != NO_SUBJECT
    subject_Q, found = pd.factorize(names[kept_Q], sort=True)
    clusters_kept = pd.factorize(cluster_Q[kept_Q], sort=True)[0]
    if len(found) < 2 or clusters_kept.max() < 1:
        return None, None
    diff_Q = diff_SQ[:, kept_Q].mean(axis=0)
    size_J = np.bincount(subject_Q)
    macro_S = np.array([np.mean(np.bincount(subject_Q, weights=row) / size_J) for row in diff_SQ[:, kept_Q]])
    diff = float(macro_S.mean())
    return diff, _interval(0.95, diff, macro_sums(diff_Q, clusters_kept, subject_Q), macro_S)[2]
