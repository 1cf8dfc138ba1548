"""How much the subject of a question says about the experts that fire on it."""

import numpy as np
from scipy.stats import entropy

from moe_tune.stats.ratios import Counts, Floats, ratio


def subject_information(questions_LES: Counts, all_questions_S: Counts) -> Floats:
    """Return the mutual information of a layer's fired experts and the subject, less what chance alone gives.

    Formula: ``sum_es P(e, s) ln(P(e, s) / (P(e) P(s))) - (S - 1) (E' - h) / (2 h N)``, P the shares of the pairs of
    question and fired expert, h the mean number of experts a question fires, E' the experts fired at all, S the
    subjects seen. The correction is (r - 1)(c - 1) / 2n, lessened because the h experts of a question are distinct.

    Shape:
        - (L, E, S), (S,); (L,) returned, in nats; around 0 (below it too) without specialisation, NaN without data.

    Reference:
        Miller 1955, "Note on the bias of information estimates"; the h distinct experts are this project's.

    Example:
        >>> subject_information(np.array([[[50, 0], [0, 50]]]), np.array([50, 50])).round(3).tolist()
        [0.688]
    """
    total_L11 = questions_LES.sum((1, 2), keepdims=True)
    joint_LES = ratio(questions_LES, total_L11)
    expert_LE1, subject_L1S = joint_LES.sum(2, keepdims=True), joint_LES.sum(1, keepdims=True)
    plain_L = np.asarray(entropy(expert_LE1, axis=1) + entropy(subject_L1S, axis=2)).reshape(-1)
    plain_L = plain_L - entropy(joint_LES.reshape(len(joint_LES), -1), axis=1)
    total_L, fired_L = total_L11.reshape(-1), np.sum(questions_LES.sum(2) > 0, axis=1)
    each_L = total_L / all_questions_S.sum() if all_questions_S.sum() else np.full(len(total_L), np.nan)
    return plain_L - ratio((np.sum(all_questions_S > 0) - 1) * (fired_L - each_L), 2 * total_L)


def subject_divergence(questions_LES: Counts) -> Floats:
    """Return the Jensen-Shannon divergence between the experts a subject fires and those of the whole layer.

    Shape:
        - (L, E, S); (L, S) returned, in nats, 0 to ln 2; NaN where a subject fired nothing.

    Reference:
        Lin 1991, https://doi.org/10.1109/18.61115

    Example:
        >>> subject_divergence(np.array([[[5, 5], [5, 5]]])).tolist()
        [[0.0, 0.0]]
    """
    own_LES = ratio(questions_LES, questions_LES.sum(1, keepdims=True))
    layer_LE1 = ratio(questions_LES.sum(2, keepdims=True), questions_LES.sum((1, 2), keepdims=True))
    middle_LES = (own_LES + layer_LE1) / 2
    twice_LS = np.asarray(entropy(own_LES, middle_LES, axis=1) + entropy(layer_LE1, middle_LES, axis=1))
    # Clipped because equal distributions come out a rounding error below zero.
    return np.maximum(twice_LS, 0) / 2


def subject_lift(questions_LES: Counts, all_questions_S: Counts) -> Floats:
    """Return how many times likelier an expert is to fire on a subject's questions than on any question.

    Formula: ``P(fires | subject) / P(fires)``

    Shape:
        - (L, E, S), (S,); (L, E, S) returned, 0 and up, NaN where the expert or the subject is absent.

    Example:
        >>> subject_lift(np.array([[[4, 0]]]), np.array([8, 8])).tolist()
        [[[2.0, 0.0]]]
    """
    overall_LE1 = questions_LES.sum(2, keepdims=True) / max(int(all_questions_S.sum()), 1)
    return ratio(ratio(questions_LES, all_questions_S), overall_LE1)


def leading_subject(questions_LES: Counts, lift_LES: Floats) -> Counts:
    """Return for each expert the subject that sets it apart most, by number of questions as well as by lift.

    Formula: ``argmax_s n_es ln lift_es``; a subject of two questions does not win by its lift alone.

    Shape:
        - (L, E, S) for both; (L, E) returned, index of the subject, -1 for experts that never fired.

    Reference:
        This project's: the largest term of the divergence between the expert's subjects and the quiz's.
    """
    fires = questions_LES > 0
    weight_LES = np.where(fires, questions_LES * np.log(np.where(fires, lift_LES, 1.0)), -np.inf)
    return np.where(fires.any(-1), weight_LES.argmax(-1), -1)
