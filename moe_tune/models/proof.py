"""Proof at attach: a router decides on random input as its family says, or the run does not start."""

import torch
from torch import Tensor, nn

from moe_tune.base.errors import ModelError
from moe_tune.heads.base import decide
from moe_tune.models.family import ModelFamily
from moe_tune.models.gate_replay import GateReplay
from moe_tune.routing import Decision, ScoringRule

PROOF_TOKENS = 64
"""Random hidden states on which a router has to decide as its family says."""
LAST_BITS = 8
"""How many times its precision a closed form may be off, relatively."""
ADDED = 2e-6
"""What families may add to the sum they divide by, so that it is never 0."""


@torch.no_grad()
def prove_router(family: ModelFamily, block: nn.Module, replay: GateReplay, rule: ScoringRule) -> None:
    """Refuse a layer whose router has more to it than its family says, or decides otherwise on random input.

    Args:
        family: Its family.
        block: A decoder layer that holds a router.
        replay: Its stock gate.
        rule: The rule to be proved.

    Raises:
        ModelError: The router, or its block, has a tensor that the family does not claim, or it decides otherwise.
    """
    if family.gate_tensors is not None:
        _refuse_unclaimed(family, block, replay.layer)
    if replay.weight(replay.gate).is_meta:
        return
    hidden_TD, gate = replay.drawn_hidden(PROOF_TOKENS), replay.gate
    with torch.autocast(hidden_TD.device.type, enabled=False):
        _, weights_TK, experts_TK = replay.stock(hidden_TD)
        own_logits_TE, _ = replay.project(gate, gate.forward, hidden_TD)
        logits_TE, read_TD = family.project(replay, gate, gate.forward, hidden_TD)
        came = decide(None, rule, read_TD, logits_TE, stock_ties=True)
    off = float((came.weights_TK.to(weights_TK.dtype).double() - weights_TK.double()).abs().max())
    if off or not (torch.equal(logits_TE, own_logits_TE) and torch.equal(came.experts_TK, experts_TK)):
        others = int((came.experts_TK != experts_TK).any(-1).sum())
        raise ModelError(
            f"expected a router that decides as {type(family).__name__} says but that of layer {replay.layer} "
            f"({type(gate).__name__}) does not: {others} of {PROOF_TOKENS} random tokens get other experts, weights "
            f"are off by up to {off:.3g}. Hint: this release of transformers computes it in another way."
        )
    if rule.described:
        _prove_form(rule, replay, logits_TE)


def _refuse_unclaimed(family: ModelFamily, block: nn.Module, layer: int) -> None:
    """Refuse a router, or a block around it, with a tensor that its family does not claim."""
    owner = family.gate_path.rpartition(".")[0]
    beside = [*block.get_submodule(owner).named_parameters(owner), *block.get_submodule(owner).named_buffers(owner)]
    tensors = {name for name, _ in beside if not name.startswith(f"{family.experts_path}.")}
    claimed = {f"{family.gate_path}.{name}" for name in family.gate_tensors or ()}
    if tensors != claimed:
        raise ModelError(
            f"expected a router with the tensors {sorted(claimed)} but got {sorted(tensors)} (layer {layer}, "
            f"{type(block.get_submodule(family.gate_path)).__name__}): {type(family).__name__} would leave out what it "
            "does not know. Hint: a family file with these gate_tensors, and logits and a rule that use them."
        )


def _prove_form(rule: ScoringRule, replay: GateReplay, logits_TE: Tensor) -> None:
    """Refuse a closed form that weighs a changed set of experts otherwise than the gate's own code."""
    tokens, experts = logits_TE.shape
    first_T1, next_K = (torch.arange(count, device=logits_TE.device) for count in (tokens, rule.top_k))
    other_TK = (first_T1[:, None] + next_K) % experts
    weights_TK = replay.weigh(logits_TE, other_TK).double()
    came = Decision(rule, logits_TE, rule.probabilities(logits_TE), other_TK, own=False)
    off_TK = (came.weights_TK.double() - weights_TK).abs()
    allowed_TK = LAST_BITS * torch.finfo(logits_TE.dtype).eps + ADDED / rule.sums(logits_TE, other_TK)
    if bool((off_TK > allowed_TK * weights_TK.abs()).any()):
        worst = int(off_TK.argmax())
        raise ModelError(
            f"expected a router whose weights are known but that of layer {replay.layer} "
            f"({type(replay.gate).__name__}) gives another set of experts {float(weights_TK.flatten()[worst]):.6g} "
            f"where {float(came.weights_TK.flatten()[worst]):.6g} was computed. "
            "Hint: this release of transformers computes it in another way."
        )
