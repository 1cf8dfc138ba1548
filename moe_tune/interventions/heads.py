"""The heads that carry interventions out, on top of whatever router a model has."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.tuned_experts import expert_outputs
from moe_tune.gates.unserved import refuse_unserved
from moe_tune.heads.base import HeadTraits, RouterHead
from moe_tune.heads.dropped_experts import DroppedExperts
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.heads.stack import Stack
from moe_tune.heads.swapped_expert import SwappedExpert
from moe_tune.interventions.plan import Intervention
from moe_tune.routing import Decision, RouterOutput, Scope

Heads = dict[int, RouterHead]
"""Bound heads by layer."""


class _MeanOutput(RouterHead):
    """Replaces what some experts say by what they say on average, with the weight that the router gives them.

    Args:
        members_E: Which experts.
        mean_ED: The mean output of each expert.
    """

    traits = HeadTraits(exact_start=False, reason="outputs are their means")

    def __init__(self, members_E: Tensor, mean_ED: Tensor) -> None:
        super().__init__()
        self.members_E, self.mean_ED = members_E, mean_ED

    def mix(self, mixed_TD: Tensor, hidden_TD: Tensor, output: RouterOutput, experts: nn.Module) -> Tensor:
        token_N, slot_N = (self.members_E[output.experts_TK] & output.counted_TK).nonzero(as_tuple=True)
        if not len(token_N):
            return mixed_TD
        chosen_N = output.experts_TK[token_N, slot_N]
        said_ND = expert_outputs(experts, hidden_TD[token_N], chosen_N[:, None])[:, 0]
        weight_N1 = output.weights_TK[token_N, slot_N, None].to(hidden_TD.dtype)
        change_ND = weight_N1 * (self.mean_ED[chosen_N].to(said_ND.dtype) - said_ND)
        return mixed_TD.index_add(0, token_N, change_ND.to(mixed_TD.dtype))


class _Patched(RouterHead):
    """Decides what another router has decided for the same tokens: its experts, with its weights.

    Args:
        output: What that router decided, in the order of the tokens this head acts on.
    """

    traits = HeadTraits(exact_start=False, replaces_weights=True, variable_k=True, reason="another router has decided")

    def __init__(self, output: RouterOutput) -> None:
        super().__init__()
        self.output = output

    def weigh(self, decision: Decision) -> Decision:
        return decision.given(self.output.experts_TK, self.output.weights_TK, self.output.used_TK)


def decisions(gated: GatedModel, layers: Sequence[int], scope: Scope) -> Heads:
    """Return heads that decide, at the tokens of a scope, what routers have decided in the last forward pass."""
    trace = gated.trace
    rows = slice(None) if trace.answer_only else trace.rows(scope)[0]
    return {layer: _Patched(trace.outputs[layer].rows(rows)).eval() for layer in layers}


def entry(gated: GatedModel, router: Mapping[int, RouterHead], one: Intervention, means: Mapping[int, Tensor]) -> Heads:
    """Return the heads of a model on which an intervention is carried out; those of other layers stay as they are.

    Args:
        gated: The model.
        router: The heads that act in it; where there is none, the pretrained router decides.
        one: What is done.
        means: Mean output of each expert by layer, where outputs are replaced.

    Raises:
        ConfigError: The model's routers cannot serve it, or too few experts are left.
    """
    heads = dict(router)
    for layer, experts in one.members:
        mine = _bound(gated, one, layer, list(experts), means)
        heads[layer] = Stack({"router": heads[layer], "intervention": mine}).eval() if layer in heads else mine
    return heads


def _bound(
    gated: GatedModel, one: Intervention, layer: int, experts: list[int], means: Mapping[int, Tensor]
) -> RouterHead:
    if one.kind == "mean":
        members_E = torch.zeros(gated.gates[layer].rule.num_experts, dtype=torch.bool, device=gated.device)
        members_E[experts] = True
        return _MeanOutput(members_E, means[layer].to(gated.device)).eval()
    head = {
        "mask": lambda: MaskedExperts({layer: experts}),
        "drop": lambda: DroppedExperts({layer: experts}),
        "swap": lambda: SwappedExpert({layer: experts[0]}),
    }[one.kind]()
    refuse_unserved(head, [gate.rule for gate in gated.gates.values()])
    return gated.bind(head, [layer])[layer]
