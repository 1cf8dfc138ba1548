"""Guard: it acts on a question or not, whatever is beside it; its distance is that of Mahalanobis."""

import math

import numpy as np
import pytest
import torch
from made_up import layer_table
from torch.nn import functional

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import BaseGate
from moe_tune.heads.guard import Guard
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.stack import Stack
from moe_tune.heads.strength import Strength
from moe_tune.routing import RoutingTrace, SoftmaxRule


def bound(width=16, quantile=0.99, **table):
    """Return a guard that was calibrated on a made-up table, and what it learned from and did not."""
    head = Guard(RetunedHead(), quantile).bound_to(BaseGate(torch.randn(8, width), SoftmaxRule(2, 8, False), 3))
    made = layer_table(width=width, **table)
    head.calibrate(made)
    mixed_Q = torch.randperm(len(made.hidden_QD), generator=torch.Generator().manual_seed(0))
    third = len(mixed_Q) // 3
    return head, made.hidden_QD[mixed_Q[third:]], made.hidden_QD[mixed_Q[:third]]


def shaken(model, family, head, threshold, layers="last-2", scope="answer", dtype="native"):
    """Return a model whose inner head is far from its start, and whose guard knows a little of hidden states."""
    gated = GatedModel(model, family, head, layers, scope, dtype)
    draw = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, value in sorted(gated.state().items()):
            if name.endswith(".weight"):
                value.add_(torch.randn(value.shape, generator=draw))
    first = gated.heads[min(gated.heads)]
    if isinstance(first, Guard):
        first.guard_rest.fill_(1.0)
        first.guard_threshold.fill_(threshold)
    return gated


def logits(gated, batch):
    with torch.no_grad():
        return gated.model(**batch).logits


def distances(build_model, family, batch, scope="answer"):
    gated = shaken(build_model(family), family, Guard(RetunedHead()), math.inf, scope=scope)
    gated._session.needs = frozenset({"hidden"})
    logits(gated, batch)
    trace = gated.trace
    return gated.heads[1].distance(trace.outputs[1].hidden_TD[trace.answer_T])


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_without_a_bound_it_is_the_inner_head_and_at_bound_0_the_pretrained_router(scope, family, build_model, batch):
    stock = logits(
        GatedModel(build_model(family), family, Stack({"none": RetunedHead()}), routing_dtype="native"), batch
    )
    inner = logits(shaken(build_model(family), family, RetunedHead(), 0.0, scope=scope), batch)
    guarded = [
        logits(shaken(build_model(family), family, Guard(RetunedHead()), one, scope=scope), batch)
        for one in (math.inf, 0.0)
    ]
    assert not torch.equal(inner, stock)
    assert torch.equal(guarded[0], inner)
    assert torch.equal(guarded[1], stock)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_each_question_is_the_inner_heads_or_the_pretrained_routers(scope, family, build_model, batch):
    distance_B = distances(build_model, family, batch, scope)
    threshold = float(distance_B.median()) + 1e-4
    inside_B = distance_B < threshold
    gated = shaken(build_model(family), family, Guard(RetunedHead()), threshold, scope=scope)
    came = logits(gated, batch)
    assert torch.equal(gated.trace.acting[0], inside_B)
    assert inside_B.tolist().count(True) == 3
    real_BS = batch["attention_mask"].bool()
    for quantile_1, rows_B in ((math.inf, inside_B), (0.0, ~inside_B)):
        wanted = logits(shaken(build_model(family), family, Guard(RetunedHead()), quantile_1, scope=scope), batch)
        keep_BS = real_BS & rows_B[:, None]
        torch.testing.assert_close(came[keep_BS], wanted[keep_BS], atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scope", ["answer", "all"])
def test_in_training_it_trains_what_the_inner_head_would_alone(scope, family, build_model, batch):
    gradients = []
    for head in (RetunedHead(), Guard(RetunedHead())):
        gated = shaken(build_model(family), family, head, 0.0, scope=scope)
        gated.train(True)
        gated.model(**batch).logits.square().mean().backward()
        gradients.append([one.grad for head in gated.heads.values() for one in head.parameters()])
        assert gated.trace.acting == {}
    assert len(gradients[0]) == len(gradients[1]) > 0
    assert all(torch.equal(alone, guarded) for alone, guarded in zip(*gradients, strict=True))


def test_the_decision_does_not_depend_on_padding_or_on_the_batch(family, build_model, batch):
    distance_B = distances(build_model, family, batch)
    gated = shaken(build_model(family), family, Guard(RetunedHead()), float(distance_B.median()) + 1e-4)
    logits(gated, batch)
    together_B = gated.trace.acting[0]
    logits(gated, {key: functional.pad(value, (3, 2)) for key, value in batch.items()})
    assert torch.equal(gated.trace.acting[0], together_B)
    for row, length in enumerate(batch["attention_mask"].sum(1).tolist()):
        logits(gated, {key: value[row : row + 1, :length] for key, value in batch.items()})
        assert gated.trace.acting[0].item() == together_B[row]


def test_the_decision_stands_for_what_is_generated(family, build_model, batch):
    gated = shaken(build_model(family), family, Guard(RetunedHead()), 0.0, scope="all")
    ids_BS = batch["input_ids"][:1]
    with torch.no_grad():
        first = gated.model(input_ids=ids_BS, attention_mask=torch.ones_like(ids_BS), use_cache=True)
        gated.heads[1].guard_threshold.fill_(math.inf)  # it would act now, were it asked
        longer = torch.ones(1, ids_BS.shape[1] + 1, dtype=torch.long)
        gated.model(input_ids=ids_BS[:, :1], attention_mask=longer, past_key_values=first.past_key_values)
        assert not gated.trace.acting[0].any()
        gated.model(input_ids=ids_BS, attention_mask=torch.ones_like(ids_BS))
    assert gated.trace.acting[0].all(), "a new prompt is asked anew"


def test_guards_side_by_side_each_decide_for_themselves(family, build_model):
    gated = shaken(build_model(family), family, RetunedHead(), 0.0, layers="all")
    panel = [
        gated.bind(Guard(RetunedHead()), "last-2"),
        gated.bind(RetunedHead(), "all"),
        gated.bind(Guard(RetunedHead()), "last-1"),
    ]
    panel[0][1].guard_threshold.fill_(0.0)
    hidden_TD = torch.randn(6, 16)
    with gated.session(panel) as session:
        trace = session.trace = RoutingTrace.of_answers(2, 3, torch.device("cpu"))
        for layer in gated.gates:
            session.ask(layer, None, trace, hidden_TD)
    assert {index: acting_Q.tolist() for index, acting_Q in trace.acting.items()} == {0: [False] * 2, 2: [True] * 2}
    acting = session.acting
    with gated.session(panel):
        assert [(head is None, rows) for head, rows in acting(2, None, trace)] == [
            (True, slice(0, None, 3)),
            (False, slice(1, None, 3)),
            (False, slice(2, None, 3)),
        ]
    assert trace.of_head(2, 3).acting[0].all()
    assert trace.of_head(1, 3).acting == {}


@pytest.mark.reference("Guard")
def test_the_distance_is_mahalanobis():
    head, learned_QD, unseen_QD = bound(width=16)  # 10 questions for each dimension: a full covariance
    learned = learned_QD.double().numpy()
    sigma = np.cov(learned.T)
    sigma += 0.05 * np.trace(sigma) / 16 * np.eye(16)
    away = unseen_QD.double().numpy() - learned.mean(0)
    wanted = np.einsum("qd,de,qe->q", away, np.linalg.inv(sigma), away)
    np.testing.assert_allclose(head.distance(unseen_QD).numpy(), wanted, rtol=1e-4)
    assert float(head.guard_threshold) == pytest.approx(np.quantile(wanted, 0.99), rel=1e-4)


def test_with_few_questions_only_the_leading_directions_have_a_variance_of_their_own():
    head, learned_QD, unseen_QD = bound(width=64, questions=300)  # 200 to learn from: 10 directions
    learned = learned_QD.double().numpy()
    sizes, directions = np.linalg.eigh(np.cov(learned.T))
    sizes[:-10] = sizes[:-10].mean()
    sigma = directions @ np.diag(sizes + 0.05 * sizes.sum() / 64) @ directions.T
    away = unseen_QD.double().numpy() - learned.mean(0)
    wanted = np.einsum("qd,de,qe->q", away, np.linalg.inv(sigma), away)
    np.testing.assert_allclose(head.distance(unseen_QD).numpy(), wanted, rtol=1e-4)


def test_the_ends_of_the_quantile_act_always_and_never():
    for quantile, acts in ((1.0, True), (0.0, False)):
        head, learned_QD, _ = bound(quantile=quantile)
        assert head.recognises(100 * learned_QD).all() == acts
        assert head.recognises(learned_QD.mean(0, keepdim=True)).all() == acts


def test_a_shifted_kind_of_prompt_is_left_alone():
    head, _, unseen_QD = bound()
    assert head.recognises(unseen_QD).float().mean() > 0.97
    assert not head.recognises(unseen_QD + 3).any()


@pytest.mark.parametrize(
    "head", [Stack({"a": Guard(RetunedHead())}), Strength(Guard(RetunedHead())), Guard(Guard(RetunedHead()))]
)
def test_it_has_to_be_outermost(head):
    with pytest.raises(ConfigError, match="outermost"):
        head.bound_to(BaseGate(torch.randn(8, 16), SoftmaxRule(2, 8, False), 3))


def test_what_it_cannot_do_is_refused():
    for quantile in (-0.1, 1.1, math.nan):
        with pytest.raises(ConfigError, match=r"head\.quantile"):
            Guard(RetunedHead(), quantile)
    with pytest.raises(ConfigError, match="30 training questions"):
        bound(questions=29)
