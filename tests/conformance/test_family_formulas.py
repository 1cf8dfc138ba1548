"""Heads on the most used families, against each family's formula written out here."""

import pytest
import torch
from found_models import found_model

from moe_tune.heads.accuracy_bias import AccuracyBiasHead
from moe_tune.heads.base import BaseGate, decide
from moe_tune.heads.retuned import RetunedHead
from moe_tune.heads.temperature import TemperatureHead

TAU = 0.5


def softmax(chosen_by_TE, weighed_by_TE, config, replay):
    experts_TK = chosen_by_TE.topk(replay.top_k).indices
    return weighed_by_TE.softmax(-1).gather(1, experts_TK), experts_TK


def softmax_of_the_chosen(chosen_by_TE, weighed_by_TE, config, replay):
    experts_TK = chosen_by_TE.topk(replay.top_k).indices
    return weighed_by_TE.gather(1, experts_TK).softmax(-1), experts_TK


def in_groups(chosen_by_TE, weighed_by_TE, config, replay):
    """Sigmoid scores; their sum with a bias chooses: first groups by their two best, then experts within these."""
    scores_TE = chosen_by_TE.sigmoid() + replay.gate.e_score_correction_bias
    best_TG = scores_TE.view(len(scores_TE), config.n_group, -1).topk(2).values.sum(-1)
    allowed_TG = torch.zeros_like(best_TG).scatter(1, best_TG.topk(config.topk_group).indices, 1.0)
    allowed_TE = allowed_TG.repeat_interleave(scores_TE.shape[1] // config.n_group, dim=1)
    experts_TK = scores_TE.masked_fill(allowed_TE == 0, -torch.inf).topk(replay.top_k).indices
    shares_TK = weighed_by_TE.sigmoid().gather(1, experts_TK)
    return config.routed_scaling_factor * shares_TK / shares_TK.sum(-1, keepdim=True), experts_TK


FORMULAS = {
    "olmoe": softmax,
    "qwen2_moe": softmax,
    "qwen3_moe": softmax_of_the_chosen,
    "mixtral": softmax_of_the_chosen,
    "gpt_oss": softmax_of_the_chosen,
    "granitemoe": softmax_of_the_chosen,
    "deepseek_v3": in_groups,
    "glm4_moe": in_groups,
}


@pytest.mark.parametrize("changed", ["retuned", "biased", "sharpened"])
@pytest.mark.parametrize("model_type", FORMULAS)
def test_a_head_does_what_the_formula_says(model_type, changed):
    model, family = found_model(model_type)
    layer, block = next(reversed(family.moe_layers(model).items()))
    replay = family.replay(block, layer)
    rule, gate, weight_ED = family.rule(replay), replay.gate, replay.weight(replay.gate)
    prototype = {
        "retuned": RetunedHead(),
        "biased": AccuracyBiasHead(mode="select"),
        "sharpened": TemperatureHead(tau=TAU, mass="raw"),
    }[changed]
    head = prototype.bound_to(BaseGate(weight_ED, rule, layer))
    hidden_TD = torch.randn(400, replay.width)
    with torch.no_grad():
        logits_TE, read_TD = family.project(replay, gate, gate.forward, hidden_TD)
        own_TE = read_TD @ weight_ED.T + getattr(gate, "bias", torch.zeros(()))
        chosen_by_TE, weighed_by_TE = own_TE, own_TE
        if changed == "retuned":
            head.weight.add_(torch.randn_like(head.weight) / replay.width**0.5)
            chosen_by_TE = weighed_by_TE = own_TE + read_TD @ (head.weight - weight_ED).T
        elif changed == "biased":
            head.bias_E.normal_()
            chosen_by_TE = own_TE + head.bias_E
        else:
            weighed_by_TE = own_TE / TAU
        came = decide(head, rule, read_TD, logits_TE)
        weights_TK, experts_TK = FORMULAS[model_type](chosen_by_TE, weighed_by_TE, model.config, replay)
    assert torch.equal(came.experts_TK.sort(-1).values, experts_TK.sort(-1).values)
    came_TE = torch.zeros_like(own_TE).scatter(1, came.experts_TK, came.weights_TK)
    assert torch.allclose(came_TE, torch.zeros_like(own_TE).scatter(1, experts_TK, weights_TK), atol=1e-6, rtol=1e-5)
