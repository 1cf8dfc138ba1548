"""The route-regret loss against sums written out, and its laws: what it raises, what it leaves alone."""

import math
from dataclasses import replace

import pytest
import torch
from made_up import loss_context

from moe_tune.base.errors import ConfigError
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.retuned import RetunedHead
from moe_tune.losses.route_regret import RouteRegretLoss
from moe_tune.routing import SampledRoutes

LENGTHS, LAST = (4, 1, 3, 5, 2), 2


def with_utilities(context, utility_QN):
    return replace(context, routes=replace(context.routes, utility_QN={LAST: utility_QN}))


def scores(trace, context):
    """Return each route's score at each question's answer position, in the order of the questions, (Q, N)."""
    place = [5 * row + length - 1 for row, length in enumerate(LENGTHS)]
    log_probs_QE = trace.outputs[LAST].logits_TE.log_softmax(-1)[place]
    return torch.stack(
        [log_probs_QE.gather(1, one_QK).sum(-1) for one_QK in context.routes.experts_QNK[LAST].unbind(1)], dim=1
    )


@pytest.mark.reference("RouteRegretLoss")
def test_it_is_the_mean_logistic_loss_of_pairs_of_a_better_and_a_worse_route(random_trace):
    trace, context, margin, wanted = random_trace(LENGTHS, 5), loss_context(scope="answer"), 0.1, 0.0
    score_QN, utility_QN = scores(trace, context).double().tolist(), context.routes.utility_QN[LAST].tolist()
    for score_N, utility_N in zip(score_QN, utility_QN, strict=True):
        pairs = [
            math.log1p(math.exp(worse - better))
            for better, high in zip(score_N, utility_N, strict=True)
            for worse, low in zip(score_N, utility_N, strict=True)
            if high - low > margin
        ]
        wanted += sum(pairs) / max(1, len(pairs)) / len(LENGTHS)
    assert RouteRegretLoss(margin=margin).compute(trace, context).item() == pytest.approx(wanted, rel=1e-5)


def test_where_every_route_answers_alike_there_is_no_loss_and_no_gradient(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    value = RouteRegretLoss(margin=0.0).compute(trace, with_utilities(context, torch.full((5, 6), -1.5)))
    assert value.item() == 0
    value.backward()
    assert not trace.outputs[LAST].logits_TE.grad.any()


def test_differences_up_to_the_margin_do_not_count(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    close = with_utilities(context, torch.linspace(-1.0, -0.91, 6).expand(5, 6))
    assert RouteRegretLoss(margin=0.1).compute(trace, close).item() == 0
    assert RouteRegretLoss(margin=0.01).compute(trace, close).item() > 0


def test_a_step_down_raises_the_better_route_over_the_worse_one(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    experts_QNK = torch.tensor([[0, 1], [1, 2]]).expand(5, 2, 2)
    utility_QN = torch.tensor([[-1.0, -2.0], [-2.0, -1.0], [-0.5, -0.6], [-3.0, -0.1], [-1.0, -1.0]])
    context = replace(context, routes=SampledRoutes({LAST: experts_QNK}, {LAST: utility_QN}))
    RouteRegretLoss().compute(trace, context).backward()
    logits_TE, before_QN = trace.outputs[LAST].logits_TE, scores(trace, context).detach()
    with torch.no_grad():
        logits_TE -= 0.1 * logits_TE.grad
    moved_QN = scores(trace, context).detach() - before_QN
    risen_Q = (moved_QN[:, 0] - moved_QN[:, 1]) * (utility_QN[:, 0] - utility_QN[:, 1]).sign()
    assert (risen_Q[:-1] > 0).all()
    assert not moved_QN[-1].any(), "that question is answered alike by both"


def test_at_a_uniform_gate_it_is_the_share_of_questions_with_a_pair(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    output = trace.outputs[LAST]
    output.own_probs_TE = torch.full_like(output.probs_TE, 1 / 8).requires_grad_()
    assert RouteRegretLoss().compute(trace, context).item() == pytest.approx(0.8 * math.log(2), rel=1e-6)


def test_utilities_and_routes_are_those_of_the_question(random_trace):
    trace, context = random_trace(LENGTHS, 5), loss_context(scope="answer")
    value = RouteRegretLoss().compute(trace, context)
    routes = SampledRoutes(
        *({LAST: one[LAST].flip(0)} for one in (context.routes.experts_QNK, context.routes.utility_QN))
    )
    assert not torch.equal(RouteRegretLoss().compute(trace, replace(context, routes=routes)), value)
    back = replace(context, routes=routes.of(torch.arange(5).flip(0)))
    assert torch.equal(RouteRegretLoss().compute(trace, back), value)


def test_only_the_head_of_the_last_layer_gets_a_gradient(family, tiny_model, batch):
    """Lower heads change what the last router reads, and still get none; the same through its own weight alone."""
    gated = GatedModel(tiny_model, family, RetunedHead(), "all", needs=["own_probs", "hidden"])
    for parameter in gated.trainable().values():
        with torch.no_grad():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3))
    tiny_model(**batch)
    context = loss_context(scope="answer")
    RouteRegretLoss().compute(gated.trace, context).backward()
    grads = {name: parameter.grad for name, parameter in gated.trainable().items()}
    assert {name for name, grad in grads.items() if grad is not None} == {f"layers.{LAST}.weight"}
    assert grads[f"layers.{LAST}.weight"].any()
    output = next(one for one in gated.trace._cut("answer") if one.layer == LAST)
    weight_ED = gated.heads[LAST].weight.detach().clone().requires_grad_()
    output.own_probs_TE = torch.softmax(output.hidden_TD.detach() @ weight_ED.T, -1)
    alone = replace(gated.trace, outputs={LAST: output}, answer_T=torch.ones(5, dtype=torch.bool))
    alone.question_T, alone.real_T = torch.arange(5), alone.answer_T
    RouteRegretLoss(layers=[LAST]).compute(alone, context).backward()
    torch.testing.assert_close(grads[f"layers.{LAST}.weight"], weight_ED.grad, atol=1e-6, rtol=1e-4)


def test_another_layer_than_the_last_with_a_head_is_refused(random_trace):
    context = loss_context(scope="answer")
    known = replace(
        context,
        routes=SampledRoutes(*({LAST: one[LAST]} for one in (context.routes.experts_QNK, context.routes.utility_QN))),
    )
    with pytest.raises(ConfigError, match=r"the last layer with a head, \[2\], but got \[1\]"):
        RouteRegretLoss(layers=[0, 1]).compute(random_trace(LENGTHS, 5), known)


@pytest.mark.parametrize("options", [{"routes": 1}, {"margin": -0.1}, {"margin": float("inf")}, {"seed": -1}])
def test_impossible_settings_are_refused(options):
    with pytest.raises(ConfigError, match=next(iter(options))):
        RouteRegretLoss(**options)
