"""Each routing metric against a naive reference in numpy, and the table they make together."""

import math

import numpy as np
import pytest
import scipy.stats
import torch
from made_up import bound_to, output_of

from moe_tune.heads.base import decide
from moe_tune.heads.identity import IdentityHead
from moe_tune.heads.relu import ReluHead
from moe_tune.heads.top_p import TopPHead
from moe_tune.metrics.base import MetricShape, Outcome
from moe_tune.metrics.evidence import RoutingEvidence
from moe_tune.metrics.expert_accuracy import ExpertAccuracy
from moe_tune.metrics.expert_activation import ExpertActivation
from moe_tune.metrics.gate_entropy import GateEntropy
from moe_tune.metrics.question_routing import QuestionRouting
from moe_tune.routing import RoutingTrace, SoftmaxRule
from moe_tune.stats.ratios import FEWEST

SHAPE = MetricShape(layers=(0, 1, 2), num_experts=8, top_k=2, num_subjects=3, num_questions=5)
LENGTHS = (4, 1, 3, 5, 2)
OUTCOME = Outcome(torch.tensor([True, False, True, True, False]), torch.tensor([0, 2, 2, 1, 0]), torch.arange(5))
each_scope = pytest.mark.parametrize("scope", ["answer", "all"])
each_filling = pytest.mark.parametrize("spare", [False, True])


def choices(trace, scope):
    """Yield (layer, token, question, expert, weight) of every slot in use, one at a time."""
    counts = trace.answer_T if scope == "answer" else trace.real_T
    for layer, output in trace.outputs.items():
        for token in np.flatnonzero(counts.numpy()):
            for slot in range(output.experts_TK.shape[1]):
                if output.used_TK is None or output.used_TK[token, slot]:
                    expert, weight = int(output.experts_TK[token, slot]), output.weights_TK[token, slot].item()
                    yield layer, token, int(trace.question_T[token]), expert, weight


def computed(kind, scope, trace):
    metric = kind(SHAPE, scope)
    metric.update(trace, OUTCOME)
    tables = metric.compute()
    return {name: table.detach().numpy() for name, table in tables.items()}, kind.summary(tables)


@pytest.mark.reference("ExpertActivation")
@each_scope
@each_filling
def test_expert_activation(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    tables, summary = computed(ExpertActivation, scope, trace)
    count, mass = np.zeros((3, 8)), np.zeros((3, 8))
    for layer, _, _, expert, weight in choices(trace, scope):
        count[layer, expert] += 1
        mass[layer, expert] += weight
    np.testing.assert_array_equal(tables["count"], count)
    np.testing.assert_allclose(tables["weight_mass"], mass, rtol=1e-6)
    assert tables["tokens"].tolist() == [5 if scope == "answer" else sum(LENGTHS)] * 3
    assert summary["activated_experts"] == pytest.approx((count > 0).sum(1).mean())
    assert summary["never_activated_share"] == pytest.approx((count == 0).mean())
    assert summary["load_imbalance"] == pytest.approx((count.max(1) / count.mean(1)).mean())


@pytest.mark.reference("ExpertAccuracy")
@each_scope
@each_filling
def test_expert_accuracy_counts_a_question_once(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    tables, _ = computed(ExpertAccuracy, scope, trace)
    questions, correct = np.zeros((3, 8, 3)), np.zeros((3, 8, 3))
    for layer, question, expert in {
        (layer, question, expert) for layer, _, question, expert, _ in choices(trace, scope)
    }:
        subject = OUTCOME.subject_B[question]
        questions[layer, expert, subject] += 1
        correct[layer, expert, subject] += bool(OUTCOME.correct_B[question])
    np.testing.assert_array_equal(tables["questions_by_subject"], questions)
    np.testing.assert_array_equal(tables["correct_by_subject"], correct)
    np.testing.assert_array_equal(tables["questions"], questions.sum(-1))
    np.testing.assert_array_equal(tables["correct"], correct.sum(-1))


@pytest.mark.reference("GateEntropy")
@each_scope
@each_filling
def test_gate_entropy(scope, spare, random_trace):
    trace = random_trace(LENGTHS, 5, spare=spare)
    tables, summary = computed(GateEntropy, scope, trace)
    counts = (trace.answer_T if scope == "answer" else trace.real_T).numpy()
    for key, distribution in (("entropy_all", "probs_TE"), ("entropy_topk", "weights_TK")):
        for layer, output in trace.outputs.items():
            values = scipy.stats.entropy(getattr(output, distribution).detach().double().numpy()[counts], axis=-1)
            assert tables[f"{key}_mean"][layer] == pytest.approx(values.mean(), abs=1e-6)
            assert tables[f"{key}_std"][layer] == pytest.approx(values.std(), abs=1e-5)
        assert summary[key] == pytest.approx(tables[f"{key}_mean"].mean())
    assert (tables["entropy_all_mean"] <= math.log(8) + 1e-6).all()
    assert (tables["entropy_topk_mean"] <= tables["entropy_topk_most"] + 1e-6).all()
    for layer, output in trace.outputs.items():
        used_T = output.experts_TK.new_full(output.mask_T.shape, 2) if not spare else output.used_TK.sum(-1)
        assert tables["entropy_topk_most"][layer] == pytest.approx(np.log(used_T.numpy()[counts]).mean(), abs=1e-12)


HEADS = {
    "eight slots of two": TopPHead(p=0.97, slots=8),
    "one slot of two": TopPHead(p=0.97, slots=1),
    "relu": ReluHead(slots=8),
    "plain": IdentityHead(),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS)
@pytest.mark.parametrize("spread", [0.01, 3.0])
def test_no_head_gets_more_than_the_whole_of_the_maximum(head, spread):
    """Whatever a head makes of K: an even gate has all of it, and K slots in use have ln K, to the last digit."""
    rule = SoftmaxRule(2, 8, renormalise=False)
    made = decide(bound_to(rule, head), rule, torch.zeros(500, 4), spread * torch.randn(500, 8))
    trace = RoutingTrace.of_answers(500, 1, torch.device("cpu"))
    trace.record(output_of(made, trace.real_T))
    metric = GateEntropy(MetricShape((0,), 8, 2, 1, 500), "answer")
    metric.update(trace, Outcome(torch.ones(500).bool(), torch.zeros(500).long(), torch.arange(500)))
    tables = metric.compute()
    used_T = torch.full((500,), 2) if made.used_TK is None else made.used_TK.sum(-1)
    most, mean = float(tables["entropy_topk_most"]), float(tables["entropy_topk_mean"])
    assert most == pytest.approx(np.log(used_T[used_T > 0].numpy()).mean(), rel=1e-12)
    assert mean <= most * (1 + 1e-6)
    if spread == 0.01 and not isinstance(head, ReluHead):
        assert mean >= 0.999 * most
    if isinstance(head, IdentityHead):
        assert most == pytest.approx(math.log(2), rel=1e-13)


def test_tokens_without_an_expert_are_in_no_mean_over_the_chosen(random_trace):
    """A head of positive logits leaves some tokens with none; they are not tokens whose gate is certain."""
    trace = random_trace((1,) * 5, 1)
    wanted = computed(GateEntropy, "answer", trace)[0]
    idle_T = torch.tensor([False, True, False, True, False])
    for output in trace.outputs.values():
        output.used_TK = ~idle_T[:, None].expand(5, 2)
        output.weights_TK = torch.where(output.used_TK, output.weights_TK, 0.0).detach()
        entropy_T = scipy.stats.entropy(output.weights_TK[~idle_T].double().numpy(), axis=-1)
        wanted["entropy_topk_mean"][output.layer] = entropy_T.mean()
        wanted["entropy_topk_std"][output.layer] = entropy_T.std()
    trace.forget()
    came = computed(GateEntropy, "answer", trace)[0]
    for name, table in wanted.items():
        np.testing.assert_allclose(came[name], table, atol=1e-6, err_msg=name)
    records, _ = computed(QuestionRouting, "answer", trace)
    assert np.isnan(records["entropy_question_QL"]).all(1).tolist() == idle_T.tolist()
    assert (records["tokens_question_QL"] == ~idle_T.numpy()[:, None]).all()


def test_the_spread_takes_experts_with_enough_questions():
    """Layer one: 0.9 to 0.4; layer two: one such expert only; the few questions of the last expert do not count."""
    questions = torch.tensor([[FEWEST, 100, 50, FEWEST - 1], [100, 0, 0, 0]])
    correct = torch.tensor([[27, 40, 30, 0], [90, 0, 0, 0]])
    tables = {"questions": questions, "correct": correct}
    assert ExpertAccuracy.summary(tables)["expert_accuracy_spread"] == pytest.approx(0.5)
    assert math.isnan(
        ExpertAccuracy.summary({name: table[1:] for name, table in tables.items()})["expert_accuracy_spread"]
    )


@pytest.fixture
def evidence(random_trace):
    evidence = RoutingEvidence(SHAPE)
    evidence.update(random_trace(LENGTHS, 5), OUTCOME)
    return evidence


def test_the_frame_holds_every_table_under_both_scopes(evidence, random_trace):
    frame = evidence.frame()
    assert len(frame) == 2 * 3 * 8
    assert not frame.duplicated(["scope", "layer", "expert"]).any()
    for scope in ("answer", "all"):
        rows = frame[frame["scope"] == scope].set_index(["layer", "expert"])
        for kind in (ExpertActivation, ExpertAccuracy, GateEntropy):
            for name, table in computed(kind, scope, random_trace(LENGTHS, 5))[0].items():
                if table.ndim == 2:
                    np.testing.assert_array_equal(rows[name].to_numpy().reshape(3, 8), table)
                elif table.ndim == 1:
                    np.testing.assert_array_equal(rows[name].to_numpy().reshape(3, 8), np.tile(table[:, None], 8))


def test_the_summary_is_that_of_the_answer_scope(evidence, random_trace):
    wanted = {}
    for kind in (ExpertAccuracy, ExpertActivation, GateEntropy):  # the others have nothing for the history
        wanted |= computed(kind, "answer", random_trace(LENGTHS, 5))[1]
    assert evidence.summary() == pytest.approx(wanted, nan_ok=True)


def test_the_subject_frame_adds_up_to_the_frame(evidence):
    by_subject = evidence.subject_frame(["anatomy", "law", "virology"])
    assert (by_subject["questions"] > 0).all()
    assert (by_subject["correct"] <= by_subject["questions"]).all()
    frame = evidence.frame()
    answer = frame[frame["scope"] == "answer"].set_index(["layer", "expert"])
    sums = by_subject.groupby(["layer", "expert"])[["questions", "correct"]].sum()
    for name in ("questions", "correct"):
        assert sums[name].equals(answer[name][answer["questions"] > 0].sort_index())
    assert by_subject.groupby("layer")["questions"].sum().tolist() == [5 * 2] * 3, "K experts per question"
