"""The effects of interventions: differences to the untouched model, with intervals and corrected p values."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from statsmodels.stats.multitest import multipletests

from moe_tune.interventions.plan import Intervention, reference_draws
from moe_tune.interventions.untouched import Untouched
from moe_tune.routing import Scope
from moe_tune.stats.clustered_means import ClusteredMeans, clustered_means
from moe_tune.stats.ratios import Floats

INTERVENTIONAL = "interventional"
"""The label of every table of effects."""
ALPHA = 0.05
"""False discovery rate of the screening, and family-wise error of the claims."""


@dataclass(slots=True, eq=False)
class Differences:
    """What every intervention has changed, question by question.

    Args:
        log_prob: Change of the right letter's log-probability, by intervention, (Q,).
        correct: Change of correctness: -1, 0 or 1.
        kl: Divergence of the letters from the untouched ones.
    """

    log_prob: dict[Intervention, Floats]
    correct: dict[Intervention, Floats]
    kl: dict[Intervention, Floats]

    def __contains__(self, one: Intervention) -> bool:
        return one in self.log_prob


def differences(
    untouched: Untouched, answers: Mapping[Intervention, Mapping[str, NDArray[np.floating]]]
) -> Differences:
    """Return what has changed of each question.

    Args:
        untouched: What the model does by itself.
        answers: ``log_prob``, ``correct`` and ``kl`` of each question by intervention.
    """
    right_Q = untouched.right_Q.double().numpy()
    correct_Q = untouched.correct_Q.double().numpy()
    return Differences(
        {one: value["log_prob"].astype(np.float64) - right_Q for one, value in answers.items()},
        {one: value["correct"].astype(np.float64) - correct_Q for one, value in answers.items()},
        {one: value["kl"].astype(np.float64) for one, value in answers.items()},
    )


def treated(one: Intervention, untouched: Untouched) -> NDArray[np.bool_]:
    """Return the questions on which an intervention acts by its definition, (Q,).

    They are those whose answer token is routed to one of its experts; of an expert that is forced in, those whose is
    not.
    """
    routed = [untouched.layers[layer].chosen_QE[:, list(some)].any(-1).numpy() for layer, some in one.members]
    routed_Q: NDArray[np.bool_] = np.logical_or.reduce(routed)
    return ~routed_Q if one.kind == "swap" else routed_Q


def effect_frame(
    many: Sequence[Intervention],
    found: Differences,
    untouched: Untouched,
    cluster_Q: NDArray[np.intp],
    scope: Scope,
) -> pd.DataFrame:
    """Return a row per intervention: effects over all questions, over those it acts on, and beside its reference.

    ``log_prob``, ``accuracy`` and ``kl`` are means over all questions, those with ``_treated`` over the questions that
    ``treated`` names; ends of 95 % intervals are ``_low`` and ``_high``. ``p`` is that the mean change of ``log_prob``
    is 0, ``p_screen`` with Benjamini and Hochberg's correction over the rows, ``p_claim`` with Holm's. ``reference_*``
    is of the same done to other experts of like usage: how many, their mean, the ends of their middle 90 %, and
    ``p_reference``, the share of them (and of it) whose change is at least as large.
    """
    stacked = {name: np.stack([getattr(found, name)[one] for one in many]) for name in ("log_prob", "correct", "kl")}
    treated_IQ = np.stack([treated(one, untouched) for one in many])
    columns: dict[str, object] = {
        "kind": [one.kind for one in many],
        "scope": scope,
        "experts": [_told(one) for one in many],
        "size": [one.size for one in many],
        "questions": treated_IQ.shape[1],
        "clusters": len(np.unique(cluster_Q)),
    }
    for name, values_IQ in stacked.items():
        label = "accuracy" if name == "correct" else name
        means = clustered_means(values_IQ, cluster_Q)
        columns |= _named(label, means, least=0.0 if name == "kl" else None)
        if name == "log_prob":
            columns |= {"d": means.standardised, "p": means.p} | _corrected(means.p)
        among = clustered_means(values_IQ, cluster_Q, treated_IQ)
        columns |= _named(f"{label}_treated", among, least=0.0 if name == "kl" else None)
    columns["treated"] = treated_IQ.sum(1)
    frame = pd.DataFrame(columns)
    references = [_reference(one, found, untouched) for one in many]
    return frame.join(pd.DataFrame(references)).assign(evidence=INTERVENTIONAL)


def interaction_frame(sets: Sequence[Intervention], found: Differences, cluster_Q: NDArray[np.intp]) -> pd.DataFrame:
    """Return what each set does beyond its experts one by one: effect of the set less the sum of single effects.

    Formula, per question: ``D_S - sum_{e in S} D_e``, D the change of the right letter's log-probability; the mean with
    its interval. 0 of a set of one.
    """
    rows = []
    for one in sets:
        alone = one.singles()
        beyond_Q = found.log_prob[one] - np.sum([found.log_prob[other] for other in alone], axis=0)
        means = clustered_means(beyond_Q[None], cluster_Q)
        sum_of = float(np.sum([found.log_prob[other].mean() for other in alone]))
        rows.append(
            {"sum_of_singles": sum_of} | {name: value[0] for name, value in _named("interaction", means).items()}
        )
    return pd.DataFrame(rows)


def _named(name: str, means: ClusteredMeans, least: float | None = None) -> dict[str, Floats]:
    low = means.low if least is None else np.maximum(means.low, least)
    return {name: means.value, f"{name}_low": low, f"{name}_high": means.high}


def _corrected(p_I: Floats) -> dict[str, Floats]:
    known = ~np.isnan(p_I)
    found = {}
    for name, method in (("p_screen", "fdr_bh"), ("p_claim", "holm")):
        corrected_I = np.full(len(p_I), np.nan)
        if known.any():
            corrected_I[known] = multipletests(p_I[known], method=method)[1]
        found[name] = corrected_I
    return found


def _reference(one: Intervention, found: Differences, untouched: Untouched) -> dict[str, float]:
    usage = {layer: untouched.layers[layer].usage_E for layer, _ in one.members}
    others = [other for other in reference_draws(one, usage) if other in found]
    names = ("reference_draws", "reference_mean", "reference_low", "reference_high", "p_reference")
    if not others:
        return dict(zip(names, (0, *[float("nan")] * 4), strict=True))
    changes = np.array([found.log_prob[other].mean() for other in others])
    own = abs(found.log_prob[one].mean())
    low, high = np.quantile(changes, (0.05, 0.95))
    larger = (1 + int((np.abs(changes) >= own).sum())) / (1 + len(others))
    return dict(zip(names, (len(others), float(changes.mean()), float(low), float(high), larger), strict=True))


def _told(one: Intervention) -> str:
    return "; ".join(f"{layer}: {', '.join(map(str, experts))}" for layer, experts in one.members)
