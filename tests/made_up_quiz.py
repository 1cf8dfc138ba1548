"""Quizzes with made-up routing: subjects differ in difficulty and in the experts they prefer."""

import numpy as np


def made_up_quiz(questions=400, layers=2, experts=8, top_k=2, subjects=5, seed=0):
    """Return hits (Q, L, E), correctness and subjects; given the subject, correctness knows nothing of the experts."""
    draw = np.random.default_rng(seed)
    subject_Q = draw.integers(0, subjects, questions)
    correct_Q = draw.random(questions) < np.linspace(0.25, 0.9, subjects)[subject_Q]
    liking_SLE = 2 * draw.normal(size=(subjects, layers, experts))
    score_QLE = liking_SLE[subject_Q] + draw.gumbel(size=(questions, layers, experts))
    hit_QLE = np.argsort(np.argsort(-score_QLE, axis=-1), axis=-1) < top_k
    return hit_QLE.astype(np.uint8), correct_Q, subject_Q


def made_up_tables(hit_QLE, correct_Q, subject_Q, subjects, top_k, seen_Q=None):
    """Return every table of a scope with one token per question; the weights and entropies are arbitrary."""
    draw = np.random.default_rng(1)
    seen_Q = np.ones(len(correct_Q), dtype=bool) if seen_Q is None else seen_Q
    hit_QLE = (hit_QLE * seen_Q[:, None, None]).astype(np.uint8)
    hit = hit_QLE.astype(np.int64)
    one_hot_QS = np.eye(subjects, dtype=np.int64)[subject_Q]
    by_subject = np.einsum("qle,qs->les", hit, one_hot_QS)
    solved_by_subject = np.einsum("qle,qs,q->les", hit, one_hot_QS, correct_Q.astype(np.int64))
    count_LE, layers = hit.sum(0), hit.shape[1]
    weight_LK = np.sort(draw.random((layers, top_k)), axis=1)[:, ::-1]
    entropy_QL = np.log(top_k) * (0.95 + 0.05 * draw.random((len(correct_Q), layers)))
    entropy_QL[~seen_Q] = np.nan
    metrics = ("margin_mean", "tie_rate", "near_tie_rate", "base_overlap", "base_kl")
    return {
        "count": count_LE, "weight_mass": 0.1 * count_LE, "mass_correct": 0.1 * solved_by_subject.sum(-1),
        "tokens": np.full(layers, seen_Q.sum()), "questions": by_subject.sum(-1), "correct": solved_by_subject.sum(-1),
        "questions_by_subject": by_subject, "correct_by_subject": solved_by_subject,
        "entropy_all_mean": np.full(layers, 1.5), "entropy_all_std": np.full(layers, 0.1),
        "entropy_topk_mean": entropy_QL[seen_Q].mean(0), "entropy_topk_std": entropy_QL[seen_Q].std(0),
        "entropy_topk_most": np.full(layers, np.log(top_k)), "sorted_weight_mean": weight_LK,
        "topk_mass_mean": weight_LK.sum(1), "co_count": np.einsum("qle,qlf->lef", hit, hit),
        **{name: draw.random(layers) for name in metrics}, "hit_QLE": hit_QLE, "entropy_question_QL": entropy_QL,
        "tokens_question_QL": np.repeat(seen_Q[:, None].astype(int), layers, axis=1),
        "correct_Q": correct_Q, "subject_Q": subject_Q, "seen_Q": seen_Q,
    }  # fmt: skip
