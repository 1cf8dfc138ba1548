"""The data frame of subjects: one row per subject and layer."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from moe_tune.analysis.expert_frame import subject_totals
from moe_tune.stats.accuracy_estimates import raw_accuracy
from moe_tune.stats.ratios import Tables, ratio
from moe_tune.stats.specialisation import subject_divergence


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
