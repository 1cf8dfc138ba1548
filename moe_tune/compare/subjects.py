"""Differences by subject, partially pooled: small subjects lean on the mean of all."""

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.stats import chi2, norm

from moe_tune.stats.decision import FEWEST_SEEDS


@dataclass(frozen=True, slots=True)
class SubjectDifferences:
    """Each subject's difference to the baseline, raw and pooled; fractions.

    Attributes:
        table: One row per subject: ``subject, n, diff, se, pooled, low, high`` (95 % interval of ``pooled``).
        mean: Mean difference over subjects, weighted by precision.
        tau: Standard deviation of the subjects' true differences (REML).
        q: Cochran's heterogeneity statistic.
        q_p: Its p value with J - 1 degrees of freedom.
        i_squared: Share of the spread between subjects that is more than noise, 0 to 1.
    """

    table: pd.DataFrame
    mean: float
    tau: float
    q: float
    q_p: float
    i_squared: float


def subject_differences(diff_SQ: NDArray[np.float64], subjects: list[str]) -> SubjectDifferences | None:
    """Pool the subjects' differences towards their mean as far as their noise suggests.

    Formula: ``D_j* = mu + tau^2 / (tau^2 + SE_j^2) (D_j - mu)`` with
    ``SE_j^2 = (n_j pi_j + pi) / (n_j + 1) / n_j``, pi the discordance, and from five seeds on their spread within the
    subject, ``sd(D_js)^2 / S``, added to it; tau by restricted maximum likelihood.

    Returns:
        ``None`` with fewer than three subjects or no discordant question.

    Reference:
        Viechtbauer, 2005, "Bias and efficiency of meta-analytic variance estimators in the random-effects model",
        Journal of Educational and Behavioral Statistics 30(3).
    """
    subject_Q, names = pd.factorize(np.asarray(subjects, dtype=object), sort=True)
    discordance = float(np.mean(diff_SQ != 0))
    if len(names) < 3 or discordance == 0:
        return None
    n_J = np.bincount(subject_Q)
    diff_J = np.bincount(subject_Q, weights=diff_SQ.mean(axis=0)) / n_J
    discordant_J = np.bincount(subject_Q, weights=(diff_SQ != 0).mean(axis=0))
    var_J = (discordant_J + discordance) / (n_J + 1) / n_J
    if len(diff_SQ) >= FEWEST_SEEDS:
        diff_SJ = np.stack([np.bincount(subject_Q, weights=row) for row in diff_SQ]) / n_J
        var_J = var_J + diff_SJ.var(axis=0, ddof=1) / len(diff_SQ)

    tau2 = _restricted_variance(diff_J, var_J)
    weight_J = 1 / (tau2 + var_J)
    mean = float(np.sum(weight_J * diff_J) / np.sum(weight_J))
    kept_J = tau2 / (tau2 + var_J)
    pooled_J = mean + kept_J * (diff_J - mean)
    # The mean is estimated too: its variance counts as far as a subject leans on it.
    spread_J = np.sqrt(kept_J * var_J + (1 - kept_J) ** 2 / np.sum(weight_J))
    reach_J = float(norm.ppf(0.975)) * spread_J

    fixed_J = 1 / var_J
    centre = np.sum(fixed_J * diff_J) / np.sum(fixed_J)
    q = float(np.sum(fixed_J * (diff_J - centre) ** 2))
    freedom = len(names) - 1
    ends = {"pooled": pooled_J, "low": pooled_J - reach_J, "high": pooled_J + reach_J}
    table = pd.DataFrame({"subject": names, "n": n_J, "diff": diff_J, "se": np.sqrt(var_J), **ends})
    i_squared = max(0.0, (q - freedom) / q) if q > 0 else 0.0
    return SubjectDifferences(table, mean, math.sqrt(tau2), q, float(chi2.sf(q, freedom)), i_squared)


def _restricted_variance(diff_J: NDArray[np.float64], var_J: NDArray[np.float64]) -> float:
    def minus_log_likelihood(tau2: float) -> float:
        weight_J = 1 / (tau2 + var_J)
        mean = np.sum(weight_J * diff_J) / np.sum(weight_J)
        fit = np.sum(weight_J * (diff_J - mean) ** 2)
        return float(0.5 * (fit - np.sum(np.log(weight_J)) + np.log(np.sum(weight_J))))

    top = float(np.var(diff_J)) + float(var_J.max())
    found = float(
        minimize_scalar(minus_log_likelihood, bounds=(0.0, top), method="bounded", options={"xatol": 1e-12}).x
    )
    return found if minus_log_likelihood(found) < minus_log_likelihood(0.0) else 0.0
