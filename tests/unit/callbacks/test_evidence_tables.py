"""The tables agree with independent references and leave nobody's questions out."""

import numpy as np
import pytest
from made_up_evidence import made_up_evidence, with_every_metric
from scipy.stats import binomtest

from moe_tune.base.plugins import concrete_subclasses
from moe_tune.callbacks.evidence_tables import expert_table, layer_table, with_estimates
from moe_tune.metrics.base import RoutingMetric


@pytest.fixture
def plain():
    return with_every_metric(made_up_evidence(scopes=("answer", "all")))


def test_estimates_agree_with_scipy_and_keep_the_rest(plain):
    table = with_estimates(plain)
    assert table[plain.columns].equals(plain)
    for row in table[table["questions"] > 0].itertuples():
        wilson = binomtest(row.correct, row.questions).proportion_ci(0.95, method="wilson")
        assert (row.accuracy_low, row.accuracy_high) == pytest.approx((wilson.low, wilson.high))
        assert row.accuracy == row.correct / row.questions
        assert row.shrunk_low <= row.shrunk <= row.shrunk_high
    unused = table[table["questions"] == 0]
    assert len(unused)
    assert unused[["accuracy", "accuracy_low", "shrunk", "shrunk_high"]].isna().all(axis=None)
    assert table.groupby(["scope", "layer"])["usage"].sum().to_numpy() == pytest.approx(2)


def test_shrinking_draws_towards_the_mean_of_the_layer_and_looks_at_no_other(plain):
    table = with_estimates(plain)
    for (scope, layer), part in table[table["questions"] > 0].groupby(["scope", "layer"]):
        mean = part["correct"].sum() / part["questions"].sum()
        assert ((part["shrunk"] - mean).abs() <= (part["accuracy"] - mean).abs() + 1e-12).all()
        alone = with_estimates(plain[(plain["scope"] == scope) & (plain["layer"] == layer)])
        used = alone.loc[alone["questions"] > 0, "shrunk"]
        np.testing.assert_array_equal(used, part["shrunk"])


def test_the_order_of_the_rows_does_not_matter(plain):
    table = with_estimates(plain)
    mixed = with_estimates(plain.sample(frac=1, random_state=0)).sort_index()
    for name in ("usage", "accuracy_low", "shrunk", "shrunk_high"):
        np.testing.assert_allclose(mixed[name], table[name], rtol=1e-12)


def test_experts_are_those_in_use_at_the_answer_position(plain):
    shown = expert_table(with_estimates(plain))
    answer = plain[plain["scope"] == "answer"]
    assert len(shown) == (answer["count"] > 0).sum()
    assert shown["count"].sum() == answer["count"].sum()


def test_layers_hold_the_load_and_every_metrics_value_of_the_layer(plain):
    shown = layer_table(with_estimates(plain)).set_index(["scope", "layer"])
    assert list(shown.index) == [(scope, layer) for scope in ("answer", "all") for layer in range(3)]
    for (scope, layer), row in shown.iterrows():
        count_E = plain.loc[(plain["scope"] == scope) & (plain["layer"] == layer), "count"]
        assert row["activated"] == (count_E > 0).sum()
        assert row["never_share"] == pytest.approx((count_E == 0).mean())
        assert row["load_max_over_mean"] == pytest.approx(count_E.max() / count_E.mean())
    wanted = {
        name for kind in concrete_subclasses(RoutingMetric).values() for name, axes in kind.axes.items() if axes == "L"
    }
    assert wanted <= set(shown.columns)
