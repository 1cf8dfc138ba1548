"""A planted committee is found; where subjects share no experts there is none."""

import numpy as np
import pytest

from moe_tune.stats.committee import committee

E, K = 32, 4


def routed(subjects, questions, seed, planted=(), noise=1.5):
    """Return weights of routes that follow each subject's own taste, the planted experts ahead of all in every one."""
    random = np.random.default_rng(seed)
    taste_SE = random.gumbel(size=(subjects, E)) * noise
    taste_SE[:, list(planted)] = 8 + random.gumbel(size=(subjects, len(planted)))
    subject_Q = np.arange(questions) % subjects
    score_QE = taste_SE[subject_Q] + random.gumbel(size=(questions, E))
    chosen_QK = np.argsort(-score_QE, axis=1)[:, :K]
    weights_QE = np.zeros((questions, E))
    np.put_along_axis(weights_QE, chosen_QK, random.dirichlet(np.ones(K), questions), axis=1)
    return weights_QE, subject_Q


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_committee_is_found(seed):
    planted = (5, 17, 30)
    found = committee(*routed(12, 600, seed, planted), K, draws=200)
    assert found.members
    assert set(found.members) <= set(planted)
    assert found.p < 0.05
    assert found.coverage > found.chance_high


@pytest.mark.parametrize("subjects", [3, 12])
def test_where_nothing_is_shared_a_committee_is_claimed_no_oftener_than_promised(subjects):
    alarms = sum(committee(*routed(subjects, 300, seed), K, draws=99, seed=seed).p < 0.05 for seed in range(200))
    assert alarms <= 14


def test_subjects_that_do_not_differ_overlap_as_much_as_when_dealt_out_anew():
    inside = 0
    for seed in range(20):
        weights_QE, _ = routed(1, 300, seed)
        subject_Q = np.random.default_rng(seed).integers(0, 6, 300)
        found = committee(weights_QE, subject_Q, K, draws=100, seed=seed)
        inside += found.alike_low <= found.overlap <= found.alike_high
    assert inside >= 17
    differing = committee(*routed(6, 300, 0), K, draws=100)
    assert differing.overlap < differing.alike_low


def test_the_scale_of_weights_and_the_order_of_questions_do_not_matter():
    weights_QE, subject_Q = routed(6, 120, 3, (2, 9))
    order_Q = np.random.default_rng(0).permutation(len(subject_Q))
    found, other = (
        committee(weights_QE, subject_Q, K, 50),
        committee(7 * weights_QE[order_Q], subject_Q[order_Q], K, 50),
    )
    assert found.members == other.members
    assert found.coverage == pytest.approx(other.coverage, abs=1e-12)


def test_one_subject_has_no_committee():
    weights_QE, subject_Q = routed(1, 60, 0)
    assert committee(weights_QE, subject_Q, K, 10).members == ()
