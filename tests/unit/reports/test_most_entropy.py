"""The most that top-k entropy can be has one definition, the mean of ln k over tokens, in every table and figure."""

import numpy as np
import pytest
from made_up_analysis import made_up_analysis
from made_up_evidence import made_up_evidence

from moe_tune.analysis.charts import CHARTS
from moe_tune.callbacks.evidence_figures import evidence_figures
from moe_tune.callbacks.evidence_tables import with_estimates
from moe_tune.compare.routing_summary import summarise_routing
from moe_tune.reports.routing_charts import EntropyCurve, entropy_chart

# Half the tokens of layer 0 use 1 expert and half 8; the other layers use 2 and 4 throughout.
MOST_L = np.array([np.log(8) / 2, np.log(2), np.log(4)])


@pytest.fixture
def table():
    frame = made_up_evidence()
    frame["entropy_topk_most"] = MOST_L[frame["layer"]]
    return frame


def test_the_figure_of_an_epoch(table):
    panel = evidence_figures(with_estimates(table), "validation", None)["entropy"].axes[2]
    (most,) = (line for line in panel.lines if line.get_linestyle() == ":")
    np.testing.assert_allclose(most.get_ydata(), MOST_L)


def test_the_figure_of_an_analysis_is_the_layers_table():
    analysis = made_up_analysis(layers=3, shots=(0,), scopes=("answer",))
    share = analysis.layers["entropy_topk_mean"].to_numpy() / MOST_L
    analysis.layers["entropy_topk_share"] = share
    most, mean = CHARTS["entropy_topk"](analysis.at(analysis.settings[0])).marks
    np.testing.assert_allclose(most.y, MOST_L)
    assert (most.dash, most.name) == ("dot", "maximum: mean of ln k")
    np.testing.assert_allclose(mean.hover.shown[:, 0], share)


def test_a_comparison_averages_it_over_seeds(table):
    other = table.assign(entropy_topk_most=np.log(2))
    found = summarise_routing([table, other])
    np.testing.assert_allclose(found.entropy_topk_most_L, (MOST_L + np.log(2)) / 2)


def test_runs_from_before_it_was_recorded_have_that_of_their_number_of_experts(table):
    found = summarise_routing([table.drop(columns="entropy_topk_most")])
    np.testing.assert_allclose(found.entropy_topk_most_L, np.log(2))


@pytest.mark.parametrize("most", [0.0, np.nan])
def test_one_expert_per_token_has_no_share_of_nothing(most):
    flat_L = np.zeros(3)
    chart = entropy_chart([EntropyCurve("one", range(3), flat_L, flat_L + most, flat_L)])
    assert np.isnan(chart.marks[-1].hover.shown[:, 0]).all()
    assert len(chart.marks) == (1 if np.isnan(most) else 2)
