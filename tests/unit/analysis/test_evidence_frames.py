"""The data frames agree with the tables and with one another; claims get the verdict that the data ask for."""

import re
from dataclasses import replace

import numpy as np
import pytest
from made_up_quiz import made_up_quiz as quiz
from made_up_quiz import made_up_tables as tables_of

from moe_tune.analysis.claims import claims
from moe_tune.analysis.frames import scope_evidence
from moe_tune.analysis.gather import TABLES
from moe_tune.base.errors import DataError
from moe_tune.stats.depth_trend import depth_trend
from moe_tune.stats.entropy_level import EntropyLevel

SUBJECTS = ["anatomy", "biology", "chemistry", "drama", "ethics", "unseen"]
LAYERS = (1, 3)
COLUMNS = {
    "experts": "layer expert count tokens usage weight_mass questions correct accuracy accuracy_low accuracy_high "
    "shrunk shrunk_low shrunk_high mass_accuracy odds_ratio odds_low odds_high risk_difference subject_gap p_null "
    "p_adjusted flagged top_subject top_subject_lift evidence",
    "layers": "layer tokens questions activated activated_tenth never_share never_bound_one never_bound_all "
    "effective_experts load_max_over_mean load_cv load_gini entropy_all_mean entropy_all_std entropy_all_share "
    "entropy_topk_mean entropy_topk_std entropy_topk_share topk_mass_mean margin_mean tie_rate near_tie_rate "
    "base_overlap base_kl accuracy_lowest accuracy_highest accuracy_spread spread_null_median spread_null_high "
    "spread_p spread_p_holm subject_information",
    "weights": "layer rank weight_mean share_mean",
    "subjects": "subject layer questions correct accuracy accuracy_low accuracy_high activated top_expert "
    "top_expert_share divergence",
    "co_activation": "layer expert other count conditional lift",
}


@pytest.fixture(scope="module")
def tables():
    hit_QLE, correct_Q, subject_Q = quiz(questions=500)
    hit_QLE[:, 0, 7] = 0
    return tables_of(hit_QLE, correct_Q, subject_Q, 6, 2, seen_Q=np.arange(500) < 450)


@pytest.fixture(scope="module")
def known(tables):
    return scope_evidence(tables, LAYERS, SUBJECTS, draws=99)


@pytest.mark.parametrize("name", TABLES)
def test_the_columns_are_those_that_readers_rely_on(known, name):
    assert getattr(known, name).columns.tolist() == COLUMNS[name].split()


def test_experts_add_up(known, tables):
    experts = known.experts
    assert len(experts) == 16
    assert experts["layer"].unique().tolist() == list(LAYERS)
    assert (experts["tokens"] == 450).all()
    np.testing.assert_allclose(experts["usage"], experts["count"] / 450)
    fired = experts[experts["questions"] > 0]
    np.testing.assert_allclose(fired["accuracy"], fired["correct"] / fired["questions"])
    np.testing.assert_allclose(fired["mass_accuracy"], fired["accuracy"])
    assert set(fired["top_subject"]) <= set(SUBJECTS[:-1])
    assert (fired["top_subject_lift"] > 1).all()
    idle = experts[experts["questions"] == 0].iloc[0]
    assert (idle["layer"], idle["expert"], idle["top_subject"], idle["flagged"]) == (1, 7, "", False)
    assert idle[["accuracy", "shrunk", "mass_accuracy", "odds_ratio", "p_null", "top_subject_lift"]].isna().all()
    assert (experts["evidence"] == "associational").all()
    assert experts["flagged"].equals(experts["p_adjusted"] < 0.05)
    assert not np.isinf(experts.select_dtypes("number").to_numpy(dtype=float)).any()


def test_layers_follow_from_the_experts(known):
    for row in known.layers.itertuples():
        own = known.experts[known.experts["layer"] == row.layer]
        assert row.activated == (own["count"] > 0).sum()
        assert row.activated_tenth == (own["count"] / own["count"].sum() >= 0.1 / 8).sum()
        assert row.never_share == pytest.approx(1 - row.activated / 8)
        accuracy = own["accuracy"][own["questions"] >= 30]
        assert (row.accuracy_lowest, row.accuracy_highest) == (accuracy.min(), accuracy.max())
        assert row.accuracy_spread == pytest.approx(accuracy.max() - accuracy.min())
        assert row.spread_null_median <= row.spread_null_high
    assert (known.layers["questions"] == 450).all()
    np.testing.assert_allclose(known.level.mean_L, known.layers["entropy_topk_mean"])
    assert known.layers["entropy_all_share"].tolist() == pytest.approx([1.5 / np.log(8)] * 2)


def test_weights_share_out_to_one(known):
    assert known.weights.groupby("layer")["share_mean"].sum().tolist() == pytest.approx([1, 1])
    assert known.weights["rank"].tolist() == [1, 2, 1, 2]


def test_subjects_count_the_questions_seen_and_no_subject_without_any(known, tables):
    subjects = known.subjects
    assert subjects["subject"].unique().tolist() == SUBJECTS[:-1]
    assert subjects.groupby("layer")["questions"].sum().tolist() == [450, 450]
    row = subjects[(subjects["subject"] == "biology") & (subjects["layer"] == 3)].iloc[0]
    hit_QE = tables["hit_QLE"][(tables["subject_Q"] == 1) & tables["seen_Q"], 1]
    assert row["top_expert"] == hit_QE.sum(0).argmax()
    assert row["top_expert_share"] == pytest.approx(hit_QE.mean(0).max())
    assert row["activated"] == hit_QE.any(0).sum()


def test_pairs_agree_with_the_questions_themselves(known, tables):
    pairs = known.co_activation
    assert (pairs["expert"] < pairs["other"]).all()
    hit_QE = tables["hit_QLE"][tables["seen_Q"]][:, 1].astype(bool)
    row = pairs[pairs["layer"] == 3].iloc[0]
    one, two = hit_QE[:, int(row["expert"])], hit_QE[:, int(row["other"])]
    assert row["count"] == (one & two).sum()
    assert row["conditional"] == pytest.approx(two[one].mean())
    assert row["lift"] == pytest.approx(two[one].mean() / two.mean())
    weight = (pairs["count"] * pairs["lift"]).groupby(pairs["layer"])
    assert weight.apply(lambda column: column.is_monotonic_decreasing).all()
    assert (weight.size() <= 50).all()


def test_the_order_of_questions_changes_no_exact_statistic(known, tables):
    order = np.random.default_rng(0).permutation(500)
    per_question = ("hit_QLE", "correct_Q", "subject_Q", "seen_Q", "entropy_question_QL", "tokens_question_QL")
    mixed = tables | {name: tables[name][order] for name in per_question}
    again = scope_evidence(mixed, LAYERS, SUBJECTS, draws=99)
    drawn = ["p_null", "p_adjusted", "flagged", "spread_null_median", "spread_null_high", "spread_p", "spread_p_holm"]
    for name in TABLES:
        one, two = (getattr(each, name).drop(columns=drawn, errors="ignore") for each in (known, again))
        assert one.equals(two), name
    assert again.trend.slope == pytest.approx(known.trend.slope, abs=1e-12)


def test_tables_of_no_question_are_refused(tables):
    with pytest.raises(DataError, match=r"expected .* but got .* Hint: "):
        scope_evidence(tables | {"seen_Q": np.zeros(500, dtype=bool)}, LAYERS, SUBJECTS)


def verdicts(known):
    return [claim["verdict"] for claim in claims({"answer": known}, 0)]


def test_claims_name_their_numbers_and_label_what_is_quoted(known):
    found = claims({"answer": known, "all": known}, 5)
    assert len(found) == 8
    assert [claim["scope"] for claim in found] == ["answer"] * 4 + ["all"] * 4
    for claim in found:
        assert claim["shots"] == 5
        assert "OLMoE-1B-7B on 14,042 MMLU test questions" in claim["quoted"]
        assert "arXiv 2502.17187" in claim["quoted"]
        text = " ".join(str(value) for value in claim.values())
        assert not re.search(r"important|importance|causes|responsible|dispensable|comparable", text)
    assert "never" in found[0]["ours"]
    assert "n = 450 questions" in found[1]["ours"]
    assert "95 % interval" in found[2]["ours"]
    assert "of 2 layers" in found[3]["ours"]
    assert "permutation, Holm" in found[3]["ours"]


@pytest.mark.parametrize(
    ("share", "bound", "verdict"), [(0.7, 0.01, "holds"), (0.7, 0.5, "inconclusive"), (0.4, 0.01, "does not hold")]
)
def test_never_firing_needs_most_experts_and_enough_questions(known, share, bound, verdict):
    layers = known.layers.assign(never_share=share, never_bound_all=bound)
    assert verdicts(replace(known, layers=layers))[0] == verdict


@pytest.mark.parametrize(
    ("shares", "reach", "verdict"),
    [
        ((0.95, 0.97), 0.01, "holds"),
        ((0.80, 0.97), 0.01, "does not hold"),
        ((0.8899, 0.97), 0.1, "inconclusive"),
        ((np.nan, 0.97), 0.1, "inconclusive"),
        ((0.95, 0.97), np.nan, "inconclusive"),
    ],
)
def test_a_near_uniform_gate_is_so_in_every_layer(known, shares, reach, verdict):
    """The maximum is each layer's own: 2 experts per token in one, 5 in the other."""
    most_L, share_L = np.log([2, 5]), np.array(shares)
    low_L, high_L = (share_L - reach) * most_L, (share_L + reach) * most_L
    level = EntropyLevel(share_L * most_L, low_L, high_L, most_L, 90, 80)
    (claim,) = claims({"answer": replace(known, level=level)}, 0)[1:2]
    assert claim["verdict"] == verdict
    assert np.isnan(share_L).any() or "n = 90 questions in 80 clusters" in claim["ours"]


def test_a_single_question_shows_nothing_of_the_gate():
    one = scope_evidence(tables_of(*quiz(questions=1), 5, 2), LAYERS, SUBJECTS[:5])
    assert verdicts(one)[1:] == ["inconclusive"] * 3
    twin = {name: np.repeat(table, 2, axis=0) for name, table in tables_of(*quiz(questions=1), 5, 2).items()
            if name.endswith(("_Q", "_QL", "_QLE"))}  # fmt: skip
    copies = scope_evidence(tables_of(*quiz(questions=1), 5, 2) | twin, LAYERS, SUBJECTS[:5], np.zeros(2, int))
    assert verdicts(copies)[1:] == ["inconclusive"] * 3


def test_a_layer_of_many_can_pass_the_correction_over_layers():
    """However few shuffles are asked for: with 100 of them, 60 layers and Holm, no p value could be below 0.59."""
    hit_QLE, correct_Q, subject_Q = quiz(questions=400, layers=60)
    hit_QLE[:, 7, 3] = correct_Q
    known = scope_evidence(tables_of(hit_QLE, correct_Q, subject_Q, 5, 2), range(60), SUBJECTS[:5], draws=100)
    assert known.layers["spread_p_holm"][7] < 0.05
    assert verdicts(known)[3] == "holds"
    assert "2,400 shuffles" in claims({"answer": known}, 0)[3]["ours"]


def test_repeats_of_a_question_are_named_where_they_are_left_out(tables):
    cluster_Q = np.arange(500)
    cluster_Q[449] = cluster_Q[np.flatnonzero(tables["subject_Q"] == tables["subject_Q"][449])[0]]
    known = scope_evidence(tables, LAYERS, SUBJECTS, cluster_Q, draws=99)
    assert "1 repeats of a question" in claims({"answer": known}, 0)[3]["ours"]
    every = scope_evidence(tables, LAYERS, SUBJECTS, np.arange(500), draws=99)
    assert "repeats" not in claims({"answer": every}, 0)[3]["ours"]


@pytest.mark.parametrize(("slope", "verdict"), [(0.05, "holds"), (-0.05, "does not hold"), (0.0, "inconclusive")])
def test_rising_entropy_needs_an_interval_on_one_side_of_zero(known, slope, verdict):
    noise_QL = 0.01 * np.random.default_rng(0).normal(size=(200, 2))
    trend = depth_trend(noise_QL - noise_QL.mean(0) + slope * np.array(LAYERS), LAYERS)
    assert verdicts(replace(known, trend=trend))[2] == verdict


def test_an_entropy_that_rises_and_falls_again_is_not_monotone(known):
    noise_QL = 0.01 * np.random.default_rng(0).normal(size=(200, 4))
    inverted_v = depth_trend(noise_QL + np.array([1.0, 1.8, 2.0, 1.65]), range(4))
    assert inverted_v.low > 0, "its slope alone passes"
    (claim,) = claims({"answer": replace(known, trend=inverted_v)}, 0)[2:3]
    assert claim["verdict"] == "not monotone"
    assert "layer 3 lies 0.3" in claim["ours"]
    assert "below layer 2" in claim["ours"]
    assert f"of at most {np.log(2):.3f}" in claim["ours"], "entropy stands with its maximum"


@pytest.mark.parametrize(("p", "verdict"), [(0.01, "holds"), (0.3, "inconclusive"), (np.nan, "inconclusive")])
def test_experts_differ_only_beyond_the_null(known, p, verdict):
    layers = known.layers.assign(spread_p=p, spread_p_holm=[p, 2 * p])
    assert verdicts(replace(known, layers=layers))[3] == verdict
