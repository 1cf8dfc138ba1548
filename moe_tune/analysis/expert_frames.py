"""The data frames of experts, one row per layer and expert, and of subjects, one row per subject and layer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_tune.stats.accuracy_estimates import raw_accuracy, risk_difference, shrunk_accuracy, subject_gap
from moe_tune.stats.mantel_haenszel import mantel_haenszel
from moe_tune.stats.permutation_null import PermutationNull
from moe_tune.stats.ratios import Counts, Tables, ratio
from moe_tune.stats.specialisation import leading_subject, subject_divergence, subject_lift

FLAG_BELOW = 0.05
"""An expert is flagged when its adjusted p value is smaller."""


def subject_totals(tables: Tables) -> tuple[Counts, Counts]:
    """Return the correctly answered questions and all questions of each subject, among those seen.

    Shape:
        - two arrays (S,).
    """
    subjects, seen_Q = tables["questions_by_subject"].shape[-1], tables["seen_Q"].astype(bool)
    subject_Q, correct_Q = tables["subject_Q"][seen_Q], tables["correct_Q"][seen_Q].astype(bool)
    return np.bincount(subject_Q[correct_Q], minlength=subjects), np.bincount(subject_Q, minlength=subjects)


def expert_frame(tables: Tables, null: PermutationNull, layers: Sequence[int], subjects: Sequence[str]) -> pd.DataFrame:
    """Return what is known of each expert: use, accuracy in its several forms, and the permutation null's verdict."""
    questions_LE, correct_LE = tables["questions"], tables["correct"]
    questions_LES, correct_LES = tables["questions_by_subject"], tables["correct_by_subject"]
    solved_S, asked_S = subject_totals(tables)
    raw = raw_accuracy(correct_LE, questions_LE)
    shrunk = [shrunk_accuracy(k_E, n_E) for k_E, n_E in zip(correct_LE, questions_LE, strict=True)]
    odds = mantel_haenszel(correct_LES, questions_LES, solved_S, asked_S)
    lift_LES = subject_lift(questions_LES, asked_S)
    leading_LE = leading_subject(questions_LES, lift_LES)
    leading_lift_LE = np.take_along_axis(lift_LES, np.maximum(leading_LE, 0)[..., None], axis=-1)[..., 0]
    depth, experts = questions_LE.shape
    columns = {
        "layer": np.repeat(np.asarray(layers), experts).reshape(depth, experts),
        "expert": np.tile(np.arange(experts), (depth, 1)),
        "count": tables["count"],
        "tokens": np.repeat(tables["tokens"][:, None], experts, axis=1),
        "usage": ratio(tables["count"], tables["tokens"][:, None]),
        "weight_mass": tables["weight_mass"],
        "questions": questions_LE,
        "correct": correct_LE,
        "accuracy": raw.value,
        "accuracy_low": raw.low,
        "accuracy_high": raw.high,
        "shrunk": np.stack([estimate.value for estimate in shrunk]),
        "shrunk_low": np.stack([estimate.low for estimate in shrunk]),
        "shrunk_high": np.stack([estimate.high for estimate in shrunk]),
        "mass_accuracy": ratio(tables["mass_correct"], tables["weight_mass"]),
        "odds_ratio": odds.value,
        "odds_low": odds.low,
        "odds_high": odds.high,
        "risk_difference": risk_difference(correct_LE, questions_LE, int(solved_S.sum()), int(asked_S.sum())),
        "subject_gap": subject_gap(correct_LES, questions_LES, solved_S, asked_S),
        "p_null": null.p_LE,
        "p_adjusted": null.p_adjusted_LE,
        "flagged": null.p_adjusted_LE < FLAG_BELOW,
        "top_subject": np.array([*subjects, ""], dtype=object)[leading_LE],
        "top_subject_lift": np.where(leading_LE < 0, np.nan, leading_lift_LE),
    }
    frame = pd.DataFrame({name: column.reshape(-1) for name, column in columns.items()})
    return frame.assign(evidence="associational")


def subject_frame(tables: Tables, layers: Sequence[int], subjects: Sequence[str]) -> pd.DataFrame:
    """Return how each subject's questions went, and how the experts they fire differ from the whole layer's.

    ``top_expert`` fires on the most of the subject's questions, ``top_expert_share`` is the share of them; -1 and NaN
    where the subject fired nothing. Subjects without questions are left out.
    """
    solved_S, asked_S = subject_totals(tables)
    questions_LES = tables["questions_by_subject"]
    estimate = raw_accuracy(solved_S, asked_S)
    divergence_LS, top_LS = subject_divergence(questions_LES), questions_LES.argmax(axis=1)
    most_LS = questions_LES.max(axis=1)
    depth = len(layers)
    columns = {
        "subject": np.tile(np.asarray(subjects, dtype=object), (depth, 1)),
        "layer": np.repeat(np.asarray(layers)[:, None], len(subjects), axis=1),
        "questions": np.tile(asked_S, (depth, 1)),
        "correct": np.tile(solved_S, (depth, 1)),
        "accuracy": np.tile(estimate.value, (depth, 1)),
        "accuracy_low": np.tile(estimate.low, (depth, 1)),
        "accuracy_high": np.tile(estimate.high, (depth, 1)),
        "activated": np.sum(questions_LES > 0, axis=1),
        "top_expert": np.where(most_LS > 0, top_LS, -1),
        "top_expert_share": np.where(most_LS > 0, ratio(most_LS, asked_S), np.nan),
        "divergence": divergence_LS,
    }
    frame = pd.DataFrame({name: column.T.reshape(-1) for name, column in columns.items()})
    return frame[frame["questions"] > 0].reset_index(drop=True)
