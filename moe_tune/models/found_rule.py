"""Which scoring rule a gate has: found by asking it how it weighs sets of experts."""

import itertools

import torch
from torch import Tensor

from moe_tune.models.gate_replay import GateReplay
from moe_tune.models.replayed_rule import ReplayedRule
from moe_tune.routing import ScoringRule, SoftmaxRule
from moe_tune.routing.closed_form import ClosedForm, Score

SCORES: tuple[Score, ...] = ("softmax", "sigmoid", "sqrt_softplus")
EXACT = 1e-4
"""How far weights in float32 may lie from a closed form, relatively: families add up to 1e-6 to a sum."""
NEAR = 4e-6
"""How near a factor is to a number of four digits to be taken for it, relatively."""
TOKENS = 256
"""Tokens that a gate is asked about, or as many as it has experts."""


@torch.no_grad()
def found_rule(replay: GateReplay) -> ScoringRule:
    """Return the rule of a gate: the softmax rule where that is all it does, else its own code with its closed form."""
    if replay.weight(replay.gate).is_meta:  # only its sizes are asked for
        return ReplayedRule(replay.top_k, replay.num_experts, replay, ClosedForm("softmax", renormalise=False))
    form = closed_form_of(replay)
    by_logits = form is not None and form.score == "softmax" and _chooses_by_logits(replay)
    own = ReplayedRule(replay.top_k, replay.num_experts, replay, form, by_logits=by_logits)
    if form is None or not replay.plain or form.score != "softmax" or form.factor_E != (1.0,):
        return own
    plain = SoftmaxRule(replay.top_k, replay.num_experts, form.renormalise)
    return plain if _same(plain, own) else own


def closed_form_of(replay: GateReplay) -> ClosedForm | None:
    """Return the closed form in which a gate weighs sets of experts, which need not be its own choice; or ``None``."""
    if replay.selection is None:
        return None
    experts, tokens = replay.num_experts, max(TOKENS, replay.num_experts)
    logits_TE, sets_TK = _drawn(replay, tokens), _sets(tokens, replay.top_k, experts)
    sets_TK = sets_TK.to(logits_TE.device)
    weights_TK = replay.weigh(logits_TE, sets_TK).float()
    for score, renormalise in itertools.product(SCORES, (False, True)):
        form = ClosedForm(score, renormalise)
        shares_TE = form.scores(logits_TE)
        ratio_TK = weights_TK / form.weights(shares_TE, sets_TK)
        if (factor_E := _factors(ratio_TK, sets_TK, experts)) is not None:
            return ClosedForm(score, renormalise, factor_E)
    return None


def _factors(ratio_TK: Tensor, sets_TK: Tensor, experts: int) -> tuple[float, ...] | None:
    """Return the factor that all ratios are, or those of each expert; ``None`` where they vary."""
    if float(ratio_TK.max() - ratio_TK.min()) <= EXACT * float(ratio_TK.abs().mean()):
        mean = float(ratio_TK.double().mean())
        short = float(f"{mean:.4g}")  # as configurations have them
        return (short if abs(short - mean) <= NEAR * abs(mean) else mean,)
    flat, of = ratio_TK.double().reshape(-1), sets_TK.reshape(-1)
    highest_E = flat.new_full((experts,), -torch.inf).scatter_reduce(0, of, flat, "amax")
    lowest_E = flat.new_full((experts,), torch.inf).scatter_reduce(0, of, flat, "amin")
    if bool(((highest_E - lowest_E) <= EXACT * highest_E.abs()).all()):
        return tuple(((highest_E + lowest_E) / 2).tolist())
    return None


def _chooses_by_logits(replay: GateReplay) -> bool:
    """Return whether a gate chooses the experts of the largest logits: no groups, no bias of its own."""
    logits_TE = _drawn(replay, TOKENS)
    largest_TK = torch.topk(logits_TE, replay.top_k, dim=-1).indices.sort(-1).values
    return torch.equal(replay.decide(logits_TE)[1].sort(-1).values, largest_TK)


def _drawn(replay: GateReplay, tokens: int) -> Tensor:
    """Return random logits in float32, without a seed of anybody's being moved."""
    draw = torch.Generator().manual_seed(0)
    logits_TE = 1.5 * torch.randn(tokens, replay.num_experts, generator=draw, device="cpu")
    return logits_TE.to(replay.weight(replay.gate).device)


def _sets(tokens: int, top_k: int, experts: int) -> Tensor:
    """Return K different experts of each token; every expert is in some token's set.

    Example:
        >>> _sets(3, 2, 3).tolist()
        [[0, 1], [1, 2], [2, 0]]
    """
    return (torch.arange(tokens)[:, None] + torch.arange(top_k)) % experts


def _same(plain: SoftmaxRule, own: ReplayedRule) -> bool:
    """Return whether a rule decides as the gate's own code does, to the last bit, in both precisions."""
    for dtype in (torch.float32, torch.bfloat16):
        logits_TE = _drawn(own.replay, TOKENS).to(dtype)
        weights_TK, experts_TK = own.replay.decide(logits_TE)
        probs_TE = plain.probabilities(logits_TE)
        if not torch.equal(plain.stock_choice(logits_TE, probs_TE, plain.top_k), experts_TK):
            return False
        if not torch.equal(plain.weights(probs_TE, experts_TK).to(weights_TK.dtype), weights_TK):
            return False
    return True
