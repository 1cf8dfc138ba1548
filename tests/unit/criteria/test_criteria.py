"""Criteria pick planted experts, of each layer and group the lowest, and the random one is seeded."""

import inspect

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import moe_tune.criteria  # noqa: F401 (finds the criteria)
from moe_tune.base.errors import ConfigError, DataError
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.criteria.at_random import AtRandom
from moe_tune.criteria.base import Criterion, ExpertEvidence
from moe_tune.criteria.frequency import Frequency
from moe_tune.criteria.kept_committee import KeptCommittee
from moe_tune.criteria.masking_effect import MaskingEffect
from moe_tune.criteria.never_activated import NeverActivated
from moe_tune.criteria.reap import Reap
from moe_tune.criteria.weighted_accuracy import WeightedAccuracy
from moe_tune.pruning.choice import going, number_of
from moe_tune.stats.never_activated import never_bound

LAYERS, EXPERTS = (1, 4), 6


def planted():
    """Return evidence in which each column has other losers."""
    index = pd.MultiIndex.from_product([LAYERS, range(EXPERTS)], names=["layer", "expert"])
    frame = pd.DataFrame(index=index).reset_index()
    frame["count"] = [10, 0, 30, 40, 50, 60, 60, 50, 40, 30, 20, 0]
    frame["weight_mass"] = frame["count"] * 0.5
    share = np.array([0.9, 0.0, 0.1, 0.8, 0.7, 0.6, 0.2, 0.9, 0.9, 0.9, 0.1, 0.0])
    frame["mass_correct"] = frame["weight_mass"] * share
    frame["norm_sum"] = frame["count"] * np.array([5.0, 0.0, 4.0, 0.5, 3.0, 3.0, 0.1, 2.0, 2.0, 2.0, 2.0, 0.0])
    return ExpertEvidence(LAYERS, EXPERTS, "all", "train", 500, frame)


def effects(tmp_path, changed=None):
    table = planted().frame[["layer", "expert"]].copy()
    table["effect"] = [-0.3, -0.2, -0.1, 0.5, -0.9, -0.4, 0.0, -1.0, 0.2, -1.0, -1.0, -1.0]
    table["scope"] = "answer"
    table = table if changed is None else changed(table)
    table.to_parquet(tmp_path / "effects.parquet")
    return str(tmp_path / "effects.parquet")


@pytest.mark.parametrize(
    ("criterion", "gone"),
    [
        (Frequency(), {1: [0, 1], 4: [4, 5]}),
        (WeightedAccuracy(), {1: [1, 2], 4: [4, 5]}),
        (Reap(), {1: [1, 3], 4: [0, 5]}),
        (KeptCommittee(members={1: [0, 1], 4: [5]}), {1: [2, 3], 4: [3, 4]}),
    ],
    ids=lambda one: type(one).__name__,
)
def test_the_planted_experts_go(criterion, gone):
    assert going(criterion.scores(planted()), planted(), 2) == gone


def test_the_masked_experts_that_did_least_harm_go(tmp_path):
    criterion = MaskingEffect(effects(tmp_path))
    assert going(criterion.scores(planted()), planted(), 2) == {1: [2, 3], 4: [0, 2]}
    assert "scope answer" in criterion.note(planted())
    assert "does not say on which questions" in criterion.note(planted())
    told = MaskingEffect(effects(tmp_path, lambda table: table.assign(split="validation", kind="mask")))
    assert told.seen() == {"validation"}
    assert "does not say" not in told.note(planted())
    with pytest.raises(DataError, match="masked experts but got those of drop"):
        MaskingEffect(effects(tmp_path, lambda table: table.assign(kind="drop"))).scores(planted())


def test_the_files_of_ablate_are_read_by_their_own_column(tmp_path):
    renamed = effects(tmp_path, lambda table: table.rename(columns={"effect": "log_prob"}))
    assert going(MaskingEffect(renamed).scores(planted()), planted(), 2) == {1: [2, 3], 4: [0, 2]}


def test_who_was_never_chosen_goes_and_nobody_else():
    scores_LE = NeverActivated().scores(planted())
    assert going(scores_LE, planted(), None) == {1: [1], 4: [5]}
    with pytest.raises(ConfigError, match=r"2 experts of layer 1 that the criterion lets go but got 1"):
        going(scores_LE, planted(), 2)
    assert f"{never_bound(500, 12):.2%}" in NeverActivated().note(planted())


def test_a_committee_stays_and_without_a_number_all_others_go(tmp_path):
    pd.DataFrame({"layer": [1, 1, 4], "expert": [0, 1, 5]}).to_parquet(tmp_path / "members.parquet")
    criterion = KeptCommittee(file=str(tmp_path / "members.parquet"))
    assert going(criterion.scores(planted()), planted(), None) == {1: [2, 3, 4, 5], 4: [0, 1, 2, 3, 4]}
    with pytest.raises(ConfigError, match="5 experts of layer 1 that the criterion lets go but got 4"):
        going(criterion.scores(planted()), planted(), 5)
    with pytest.raises(ConfigError, match="members or a file"):
        KeptCommittee()
    with pytest.raises(ConfigError, match=r"layers of \[1, 4\]"):
        KeptCommittee(members={2: [0]}).scores(planted())


def test_a_draw_is_seeded_and_differs_between_layers_and_seeds():
    many = ExpertEvidence(tuple(range(8)), 64)
    one, same, other = (going(AtRandom(seed).scores(many), many, 8) for seed in (3, 3, 4))
    assert one == same != other
    assert len({tuple(some) for some in one.values()}) == 8
    more = going(AtRandom(3).scores(many), many, 16)
    assert all({*one[layer]} < {*more[layer]} for layer in one)


@given(st.integers(1, 4), st.sampled_from([1, 2, 4]), st.integers(0, 1000))
def test_each_group_loses_equally_many_and_the_lowest(each, groups, seed):
    seen = ExpertEvidence((0, 1), 24)
    scores_LE = np.random.default_rng(seed).integers(0, 5, (2, 24)).astype(float)
    gone = going(scores_LE, seen, each * groups, groups, even=True)
    size = 24 // groups
    for row_E, some in zip(scores_LE, gone.values(), strict=True):
        for group in range(groups):
            mine = [one for one in some if one // size == group]
            stay = [one for one in range(group * size, group * size + size) if one not in mine]
            assert len(mine) == each
            assert max(row_E[mine]) <= min(row_E[stay])


def test_all_that_may_go_is_evened_for_a_smaller_model():
    scores_LE = np.array([[0.0, 0.0, 0.0, np.inf], [0.0, np.inf, 0.0, np.inf]])
    seen = ExpertEvidence((0, 1), 4)
    assert going(scores_LE, seen, None) == {0: [0, 1, 2], 1: [0, 2]}
    assert going(scores_LE, seen, None, even=True) == {0: [0, 1], 1: [0, 2]}
    assert going(scores_LE, seen, None, 2, even=True) == {0: [0, 2], 1: [0, 2]}


@pytest.mark.parametrize(
    ("share", "count", "message"),
    [
        *((0.5, 3, "a share or a count"), (1.0, None, "above 0 and below 1"), (0.01, None, "at least 1 of 64 experts")),
        *((None, 0, "1 to 63"), (None, 64, "1 to 63")),
    ],
)
def test_numbers_that_are_none_are_refused(share, count, message):
    with pytest.raises(ConfigError, match=message):
        number_of(share, count, 64)


def test_without_a_number_a_criterion_that_ranks_all_is_refused():
    with pytest.raises(ConfigError, match=r"--share 0\.25"):
        going(Frequency().scores(planted()), planted(), None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (lambda table: table.drop(columns="effect"), r"\['log_prob'\] lack"),
        (lambda table: table.iloc[:-1], r"finite effect of every expert but none of \(layer, expert\) \(4, 5\)"),
        (lambda table: pd.concat([table, table.iloc[:1]]), "more often"),
    ],
)
def test_a_table_of_effects_has_each_expert_once(tmp_path, changed, message):
    with pytest.raises(DataError, match=message):
        MaskingEffect(effects(tmp_path, changed)).scores(planted())
    with pytest.raises(DataError, match="which is none"):
        MaskingEffect(str(tmp_path / "nothing.parquet")).scores(planted())


@pytest.mark.parametrize("kind", concrete_subclasses(Criterion).values(), ids=lambda kind: kind.__name__)
def test_documentation_is_complete(kind):
    text = inspect.getdoc(kind)
    assert text.split("\n\n")[0].endswith(".")
    assert "Formula:" in text
    assert "Reference:" in text
    arguments = list(inspect.signature(kind.__init__).parameters)[1:] if "__init__" in vars(kind) else []
    assert [name for name in arguments if f"\n    {name}: " not in text] == []
