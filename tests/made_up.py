"""Made-up tables of a training split, and what else a loss may read beside a trace."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from moe_tune.heads.base import BaseGate
from moe_tune.losses.base import LossContext
from moe_tune.routing import (
    LayerTable,
    NeighbourRoutes,
    OracleRoutes,
    RouterOutput,
    SampledRoutes,
    SoftmaxRule,
    normalised,
)


def layer_table(experts=8, width=16, top_k=2, questions=400, subjects=3, seed=0):
    """Return a made-up table of the training split, of questions whose experts differ in accuracy."""
    draw = torch.Generator().manual_seed(seed)
    hidden_QD = torch.randn(questions, width, generator=draw)
    logits_QE = hidden_QD @ torch.randn(experts, width, generator=draw).T / width**0.5
    chosen_QE = torch.zeros(questions, experts).scatter_(1, logits_QE.topk(top_k).indices, 1.0)
    subject_QS = functional.one_hot(torch.arange(questions) % subjects, subjects).float()
    chance_Q = (chosen_QE @ torch.linspace(0.1, 0.9, experts)) / top_k
    correct_Q = (torch.rand(questions, generator=draw) < chance_Q).float()
    chosen_ES, correct_ES = chosen_QE.T @ subject_QS, (chosen_QE * correct_Q[:, None]).T @ subject_QS
    asked_S, right_S = subject_QS.sum(0), correct_Q @ subject_QS
    return LayerTable(
        *(one.long() for one in (chosen_ES, correct_ES, asked_S, right_S)), hidden_QD, logits_QE, correct_Q.bool()
    )


@dataclass
class MadeUpLayer:
    """A layer with a router weight that wants a gradient, and random linear experts."""

    experts_EDD: torch.Tensor
    pretrained_ED: torch.Tensor
    weight_ED: torch.Tensor

    def router_weight(self):
        return self.weight_ED

    def outputs(self, hidden_TD, experts_TK):
        return torch.einsum("td,tkde->tke", hidden_TD, self.experts_EDD[experts_TK])


def oracle_routes(layers, experts, questions):
    """Return made-up routing that a search has found; the last question is not answered correctly by it."""
    draw = torch.Generator().manual_seed(6)
    probs = {layer: torch.randn(questions, experts, generator=draw).softmax(-1) for layer in layers}
    return OracleRoutes(probs, torch.arange(questions) < max(1, questions - 1))


def neighbour_routes(layers, experts, questions):
    """Return made-up routing of three neighbours for each question, among seven."""
    draw = torch.Generator().manual_seed(7)
    probs = {layer: torch.randn(7, experts, generator=draw).softmax(-1) for layer in layers}
    weight_QN = torch.rand(questions, 3, generator=draw)
    return NeighbourRoutes(probs, torch.randint(7, (questions, 3), generator=draw), normalised(weight_QN))


def sampled_routes(layers, experts, questions, top_k=2, routes=6):
    """Return made-up routes and their utilities; the last question is answered alike by all of them."""
    draw = torch.Generator().manual_seed(8)
    noise = {layer: torch.rand(questions, routes, experts, generator=draw) for layer in layers}
    utility = {layer: -torch.rand(questions, routes, generator=draw) for layer in layers}
    for one_QN in utility.values():
        one_QN[max(1, questions - 1) :] = -1.0
    return SampledRoutes({layer: one.topk(top_k).indices for layer, one in noise.items()}, utility)


def made_up_view(layers=(0, 1, 2), experts=8, width=16):
    """Return what a loss may see of each layer."""
    draw = torch.Generator().manual_seed(5)
    return {
        layer: MadeUpLayer(
            torch.randn(experts, width, width, generator=draw),
            torch.randn(experts, width, generator=draw),
            torch.randn(experts, width, generator=draw).requires_grad_(),
        )
        for layer in layers
    }


RULE = SoftmaxRule(2, 8, False)


def loss_context(rule=RULE, layers=(0, 1, 2), scope="all", progress=0.5, questions=5, vocabulary=11):
    """Return a context of made-up answers, weights and tables; leaves that a loss may reach want a gradient."""
    draw = torch.Generator().manual_seed(2)
    logits_BV, teacher_BV = (torch.randn(questions, vocabulary, generator=draw) for _ in range(2))
    return LossContext(
        rule=rule,
        layers=layers,
        scope=scope,
        progress=progress,
        letter_log_probs_BA=torch.log_softmax(logits_BV[:, :4], -1),
        gold_B=torch.zeros(questions).long(),
        logits_BV=logits_BV.requires_grad_(),
        view=made_up_view(layers, rule.num_experts),
        teacher_logits_BV=teacher_BV,
        tables={layer: layer_table(rule.num_experts, top_k=rule.top_k, seed=layer) for layer in layers},
        oracle=oracle_routes(layers, rule.num_experts, questions),
        neighbours=neighbour_routes(layers, rule.num_experts, questions),
        routes=sampled_routes(layers, rule.num_experts, questions),
    )


def mixture(head, hidden_TD, output, experts):
    """Return what a head makes of the stock mixture, as the gate's layer does."""
    stock_TD = experts(hidden_TD, output.experts_TK, output.weights_TK)
    return head.mix(stock_TD, hidden_TD, output, experts)


def bound_to(rule, head, width=4):
    """Return a head bound to a router of the rule's size that a test does not look at."""
    return head.bound_to(BaseGate(torch.zeros(rule.num_experts, width), rule, 0))


def output_of(made, mask_T=None, base_logits_TE=None):
    """Return what a layer records of a decision."""
    mask_T = torch.ones(len(made.logits_TE), dtype=torch.bool) if mask_T is None else mask_T
    row = (made.logits_TE, made.probs_TE, made.weights_TK, made.experts_TK)
    return RouterOutput(*row, mask_T, 0, made.used_TK, base_logits_TE)
