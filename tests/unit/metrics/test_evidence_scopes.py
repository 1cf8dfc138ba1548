"""Scopes of the evidence: prompt parts, what a trace does not know, tables by name, and tokens cut out once."""

import numpy as np
import pytest
import torch
from naive_choices import LENGTHS, OUTCOME, SHAPE

from moe_tune.base.errors import ConfigError
from moe_tune.metrics.base import MetricShape, Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.routing import PARTS, RoutingTrace

PARTED = ("stem", "choices", "instruction")


def parted(trace):
    """Give every real token a part, three in turn."""
    place_T = torch.arange(len(trace.real_T)) % 3
    which_T = torch.tensor([PARTS.index(part) for part in PARTED])[place_T]
    trace.part_T = torch.where(trace.real_T, which_T, -1)
    return trace


def updated(trace, scopes, outcome=OUTCOME, shape=SHAPE):
    evidence = RoutingEvidence(shape, scopes)
    evidence.update(trace, outcome)
    return evidence


def test_counts_of_the_parts_add_up_to_those_of_all_tokens(random_trace):
    evidence = updated(parted(random_trace(LENGTHS, 5)), ("all", *PARTED))
    every = evidence.tables("all")
    for name in ("count", "tokens", "weight_mass", "mass_correct", "co_count"):
        torch.testing.assert_close(sum(evidence.tables(part)[name] for part in PARTED), every[name])
    hits = torch.stack([evidence.tables(part)["hit_QLE"] for part in PARTED]).amax(0)
    assert torch.equal(hits, every["hit_QLE"])


def test_parts_are_counted_where_the_trace_knows_them(random_trace):
    scopes = ("answer", "all", "stem")
    assert updated(random_trace(LENGTHS, 5), scopes).seen == ("answer", "all")
    assert updated(parted(random_trace(LENGTHS, 5)), scopes).seen == scopes
    answers = RoutingTrace.of_answers(5, 1, torch.device("cpu"))
    for output in random_trace((1,) * 5, 1).outputs.values():
        answers.record(output)
    evidence = updated(answers, scopes)
    assert evidence.seen == ("answer",)
    assert evidence.frame()["scope"].unique().tolist() == ["answer"]


def test_every_table_has_the_shape_of_its_axes_even_where_that_is_a_single_number(random_trace):
    shape = MetricShape(layers=(4,), num_experts=8, top_k=2, num_subjects=1, num_questions=1)
    outcome = Outcome(torch.tensor([True]), torch.tensor([0]), torch.tensor([0]))
    evidence = updated(random_trace((3,), 4, layers=(4,)), ("answer", "all"), outcome, shape)
    tables = evidence.tables("answer")
    assert tables["tokens"].shape == tables["seen_Q"].shape == (1,)
    assert tables["entropy_question_QL"].shape == (1, 1)
    assert tables["questions_by_subject"].shape == (1, 8, 1)
    assert len(evidence.frame()) == 2 * 8
    assert evidence.summary()["activated_experts"] == 2
    assert evidence.subject_frame(["law"])["questions"].sum() == 2


def test_the_frame_has_columns_per_layer_and_per_expert_only(random_trace):
    frame = updated(random_trace(LENGTHS, 5), ("answer", "all")).frame()
    assert {"count", "mass_correct", "margin_mean", "base_kl"} < set(frame)
    assert not {"co_count", "hit_QLE", "sorted_weight_mean", "correct_Q", "questions_by_subject"} & set(frame)


@pytest.mark.parametrize("scopes", [("answer", "everything"), ("answer", "answer")])
def test_scopes_that_mean_nothing_are_refused(scopes):
    with pytest.raises(ConfigError, match="expected different scopes of"):
        RoutingEvidence(SHAPE, scopes)


def test_tokens_are_cut_out_once_without_gradients_and_anew_with_them(random_trace):
    trace = random_trace(LENGTHS, 5)
    for scope in ("answer", "all"):
        with torch.no_grad():
            first, second = list(trace.at(scope)), list(trace.at(scope))
        assert all(one is other for one, other in zip(first, second, strict=True))
        graph = list(trace.at(scope))
        assert all(one is not other for one, other in zip(first, graph, strict=True))
        assert all(one.logits_TE.requires_grad for one in graph)
        for one, other in zip(first, graph, strict=True):
            for name in ("logits_TE", "weights_TK", "experts_TK", "mask_T", "hidden_TD"):
                np.testing.assert_array_equal(getattr(one, name).detach(), getattr(other, name).detach())


def test_nothing_stays_with_the_trace_after_an_update_or_a_new_record(random_trace):
    trace = random_trace(LENGTHS, 5)
    updated(trace, ("answer", "all"))
    assert not trace._cuts
    with torch.no_grad():
        list(trace.at("all"))
        trace.record(random_trace((1,) * 5, 5).outputs[0])
        assert len(next(trace.at("all")).mask_T) == sum(LENGTHS)
        assert torch.equal(next(trace.at("all")).logits_TE, trace.outputs[0].logits_TE[trace.real_T])


def test_a_scope_that_is_every_token_copies_nothing(random_trace):
    trace = random_trace((1,) * 5, 1)
    with torch.no_grad():
        for output in trace.at("answer"):
            assert output.logits_TE.data_ptr() == trace.outputs[output.layer].logits_TE.data_ptr()
