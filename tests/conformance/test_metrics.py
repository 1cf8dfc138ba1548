"""Every routing metric keeps the laws of the contract, whatever the batches; a metric added later is held to them."""

import inspect
import math
import pickle

import pytest
import torch

import moe_tune.metrics  # noqa: F401 (finds the metrics)
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.gates.gated_model import EXTRAS
from moe_tune.metrics.base import MetricShape, Outcome, RoutingMetric
from moe_tune.routing import PARTS, RoutingTrace

METRICS = {
    name: kind for name, kind in concrete_subclasses(RoutingMetric).items() if kind.__module__.startswith("moe_tune")
}
SHAPE = MetricShape(layers=(0, 1, 2), num_experts=8, top_k=2, num_subjects=3, num_questions=6)
LENGTHS = (4, 1, 3, 5, 2, 1)
CORRECT = torch.tensor([True, False, True, True, False, True])
SUBJECT = torch.tensor([0, 2, 2, 1, 0, 2])

each_metric = pytest.mark.parametrize("kind", METRICS.values(), ids=METRICS)
each_scope = pytest.mark.parametrize("scope", ["answer", "all"])


def part(trace, questions):
    """Return the batch of some of a trace's questions, in the order given."""
    keep = torch.cat([(trace.question_T == question).nonzero().flatten() for question in questions])
    number = {question: index for index, question in enumerate(questions)}
    question_T = torch.tensor([number[int(question)] for question in trace.question_T[keep]])
    piece = RoutingTrace(trace.real_T[keep], trace.answer_T[keep], question_T)
    for output in trace.outputs.values():
        piece.record(output.rows(keep))
    return piece, Outcome(CORRECT[list(questions)], SUBJECT[list(questions)], torch.tensor(list(questions)))


def result(kind, scope, *batches):
    metric = kind(SHAPE, scope)
    for batch in batches:
        metric.update(*batch)
    return metric.compute()


def assert_same(came, wanted):
    assert came.keys() == wanted.keys()
    for name, table in wanted.items():
        torch.testing.assert_close(came[name], table, atol=1e-7, rtol=1e-9, equal_nan=True, msg=name)


@each_metric
@each_scope
@pytest.mark.parametrize("spare", [False, True])
@pytest.mark.parametrize(
    "cut",
    [((0, 1, 2), (3, 4, 5)), ((0,), (1,), (2,), (3,), (4,), (5,)), ((5, 3), (1, 0, 4, 2)), ((0, 1, 2, 3, 4), (5,))],
    ids=["halves", "singles", "shuffled", "uneven"],
)
def test_any_batches_give_one_value(kind, scope, spare, cut, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    whole = result(kind, scope, part(trace, range(6)))
    assert_same(result(kind, scope, *(part(trace, piece) for piece in cut)), whole)


@each_metric
@each_scope
def test_states_of_two_processes_add_up(kind, scope, random_trace):
    """What torchmetrics does across processes: every state is reduced by a sum."""
    trace = random_trace(LENGTHS, 5)
    one, two = kind(SHAPE, scope), kind(SHAPE, scope)
    one.update(*part(trace, (0, 4)))
    two.update(*part(trace, (1, 2, 3, 5)))
    assert set(one._reductions.values()) == {torch.sum} or all(
        f.__name__ == "dim_zero_sum" for f in one._reductions.values()
    )
    for name in one._defaults:
        setattr(one, name, getattr(one, name) + getattr(two, name))
    one._computed = None
    assert_same(one.compute(), result(kind, scope, part(trace, range(6))))


@each_metric
@each_scope
def test_padding_does_not_count(kind, scope, random_trace):
    trace = random_trace(LENGTHS, 5)
    tight = [part(random_trace(LENGTHS, 5), (index,)) for index in range(6)]
    for piece, _ in tight:
        real_T = piece.real_T.clone()
        for output in piece.outputs.values():
            piece.outputs[output.layer] = output.rows(real_T)
        piece.answer_T, piece.question_T, piece.real_T = (
            mask[real_T] for mask in (piece.answer_T, piece.question_T, piece.real_T)
        )
    assert_same(result(kind, scope, *tight), result(kind, scope, part(trace, range(6))))


@each_metric
def test_scopes_agree_where_every_question_is_one_token(kind, random_trace):
    batch = part(random_trace((1,) * 6, 3), range(6))
    assert_same(result(kind, "answer", batch), result(kind, "all", batch))


@each_metric
@each_scope
@pytest.mark.parametrize("spare", [False, True])
def test_tables_are_those_of_the_axes_and_hold_plain_numbers(kind, scope, spare, random_trace):
    tables = result(kind, scope, part(random_trace(LENGTHS, 5, spare=spare), range(6)))
    assert tables.keys() == kind.axes.keys()
    for name, table in tables.items():
        assert table.shape == SHAPE.sizes(kind.axes[name]), name
        assert not table.requires_grad, name
        assert table.double().isfinite().all(), name
        assert (table >= 0).all(), name
    summary = kind.summary(tables)
    assert all(isinstance(value, float) and not math.isinf(value) for value in summary.values())


@each_metric
def test_no_token_at_all_gives_sums_of_zero_and_no_mean(kind, random_trace):
    """The part of a prompt that a protocol does not have: a mean of nothing is NaN, never 0."""
    trace, outcome = part(random_trace(LENGTHS, 5), range(6))
    trace.part_T = torch.full_like(trace.question_T, PARTS.index("stem"))
    tables = result(kind, "examples", (trace, outcome))
    for name, table in tables.items():
        means = table.is_floating_point() and name not in ("weight_mass", "mass_correct", "entropy_question_QL")
        assert table.isnan().all() if means else not table.any(), name
    assert all(isinstance(value, float) and not math.isinf(value) for value in kind.summary(tables).values())


@each_metric
def test_a_head_that_fills_no_slot_gives_plain_numbers_and_no_mean_over_the_chosen(kind, random_trace):
    batch = part(random_trace(LENGTHS, 5), range(6))
    for output in batch[0].outputs.values():
        output.used_TK = torch.zeros_like(output.experts_TK, dtype=torch.bool)
        output.experts_TK = torch.zeros_like(output.experts_TK)
        output.weights_TK = torch.zeros_like(output.weights_TK)
    over_chosen = ("entropy_topk", "entropy_question", "margin", "tie", "near_tie", "base_overlap")
    for name, table in result(kind, "all", batch).items():
        empty = table.is_floating_point() and name.startswith(over_chosen)
        assert table.isnan().all() if empty else table.double().isfinite().all(), name
        assert table.dtype != torch.long or not table.any() or name in ("tokens", "subject_Q"), name


@each_metric
@each_scope
def test_a_trace_cut_once_for_all_metrics_gives_what_a_fresh_one_does(kind, scope, random_trace):
    shared = part(random_trace(LENGTHS, 5), range(6))
    for other in METRICS.values():
        result(other, scope, shared)
    assert_same(result(kind, scope, shared), result(kind, scope, part(random_trace(LENGTHS, 5), range(6))))


@each_metric
@each_scope
def test_a_result_is_not_changed_by_what_comes_later(kind, scope, random_trace):
    batch = part(random_trace(LENGTHS, 5), range(6))
    metric = kind(SHAPE, scope)
    metric.update(*batch)
    first = metric.compute()
    kept = {name: table.clone() for name, table in first.items()}
    metric.update(*batch)
    metric.compute()
    assert_same(first, kept)
    metric.reset()
    metric.update(*batch)
    assert_same(metric.compute(), kept)


@each_metric
@each_scope
def test_pickling_keeps_the_state(kind, scope, random_trace):
    batch = part(random_trace(LENGTHS, 5), range(6))
    metric = kind(SHAPE, scope)
    metric.update(*batch)
    twin = pickle.loads(pickle.dumps(metric))  # noqa: S301 (our own bytes)
    metric.update(*batch)
    twin.update(*batch)
    assert_same(twin.compute(), metric.compute())


def test_no_two_metrics_use_one_name(random_trace):
    batch = part(random_trace(LENGTHS, 5), range(6))
    tables = [name for kind in METRICS.values() for name in result(kind, "answer", batch)]
    numbers = [name for kind in METRICS.values() for name in kind.summary(result(kind, "answer", batch))]
    assert len(tables) == len(set(tables))
    assert len(numbers) == len(set(numbers))


@each_metric
def test_declared_needs_are_extras_a_trace_can_record(kind):
    assert kind.needs <= EXTRAS


@each_metric
def test_documentation_is_complete(kind):
    text = inspect.getdoc(kind)
    assert text.split("\n\n")[0].endswith(".")
    assert kind.higher_is_better is None, "routing is described, not graded"
    assert "Reference:" in text
    own = set(inspect.signature(kind).parameters) - set(inspect.signature(RoutingMetric).parameters)
    assert all(f"\n    {name}: " in text for name in own), "what every metric takes stands in the base"
