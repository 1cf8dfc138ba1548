"""Renormalised weights: every token's chosen experts share one total weight."""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import Decision, LayerTable, ScoringRule


class RenormalisedHead(RouterHead):
    """Gives every token the same total expert weight, split as the probabilities of its chosen experts.

    Formula: ``S = topK(z)``, ``w_i = c p_i / sum_S p`` with one ``c`` per layer: the mean total that the family itself
    gives over a sample of the training questions, so that the layer's output keeps its scale on average; 1 before
    calibration. In families that renormalise it is 1 anyway, and the head changes nothing until ``c`` is trained;
    elsewhere single tokens' weights differ from the start. The logit of an expert not chosen gets no gradient.

    Args:
        scale: ``calibrated`` keeps ``c``; ``learned`` trains it from there.

    Shape:
        - ``weights_TK``: (T, K), each row with sum ``c``.

    Reference:
        Jiang et al. 2024, "Mixtral of Experts", https://arxiv.org/abs/2401.04088 (weights that sum to 1); the factor c
        is this project's.
    """

    scale: Tensor
    rule: ScoringRule

    def __init__(self, scale: Literal["calibrated", "learned"] = "calibrated") -> None:
        super().__init__()
        self.learned = scale == "learned"

    @property
    def traits(self) -> HeadTraits:
        return HeadTraits(
            trainable=self.learned,
            needs_calibration=True,
            exact_start=False,
            reason="every token gets the same total weight (1 before calibration), where the family's own differ",
        )

    def bind(self, gate: BaseGate) -> None:
        self.rule = gate.rule
        scale = torch.ones((), device=gate.weight_ED.device)
        if self.learned:
            self.scale = nn.Parameter(scale)
        else:
            self.register_buffer("scale", scale)

    @torch.no_grad()
    def calibrate(self, table: LayerTable) -> None:
        self.scale.copy_(mean_mass(table.logits_QE, self.rule))

    def weigh(self, decision: Decision) -> Decision:
        return renormalised(decision).scaled(self.scale)


def mean_mass(logits_QE: Tensor, rule: ScoringRule) -> Tensor:
    """Return the mean over questions of the sum of the K weights a family gives.

    Example:
        >>> from moe_tune.routing import SoftmaxRule
        >>> float(mean_mass(torch.zeros(3, 8), SoftmaxRule(2, 8, renormalise=False)))
        0.25
    """
    weights_QK = rule.own_weights(logits_QE, rule.probabilities(logits_QE), rule.choose(logits_QE, rule.top_k))
    return weights_QK.sum(-1).mean()


def renormalised(decision: Decision) -> Decision:
    """Return the decision with weights divided by their sum; where all are 0, they stay 0.

    Args:
        decision: A decision of any family, possibly scaled by other heads: only the shares of its weights are kept.
    """
    shares = replace(decision, rule=decision.rule.renormalised())
    if decision.scale_TK is None:
        return shares
    mass_T1 = shares.weights_TK.sum(-1, keepdim=True)
    some_T1 = mass_T1 > torch.finfo(mass_T1.dtype).tiny
    return shares.scaled(torch.where(some_T1, 1 / torch.where(some_T1, mass_T1, 1.0), 0.0))
