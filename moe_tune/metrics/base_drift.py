"""Base drift: how far the routing has moved from the pretrained router's."""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from moe_tune.metrics.base import Count, Outcome, RoutingMetric, Sum
from moe_tune.metrics.co_activation import fired
from moe_tune.metrics.gate_margin import boundary
from moe_tune.routing import RouterOutput, RoutingTrace, ScoringRule


def base_overlap(output: RouterOutput, top_k: int) -> tuple[Tensor, Tensor]:
    """Return how many of a token's chosen experts the pretrained router could also choose, and how many it chose.

    Where experts tie for its last places, any of them could take one: how ties fall is the numerics', not the gate's.

    Shape:
        - two tensors (T,), long.
    """
    assert output.base_logits_TE is not None
    fired_TE = fired(output)
    chosen_T = fired_TE.sum(-1)
    shared_T = chosen_T.clone()
    # Where K experts are chosen whose logits are all above the others', they are the top K: only the rest is sorted.
    last_T, next_T = boundary(output, output.base_logits_TE)
    doubtful_T = ((last_T <= next_T) | (chosen_T != top_k)).nonzero().squeeze(-1)
    base_ME, fired_ME = output.base_logits_TE[doubtful_T].float(), fired_TE[doubtful_T]
    last_M1 = base_ME.topk(top_k, dim=-1).values[:, -1:]
    above_ME = base_ME > last_M1
    tied_M = (fired_ME * (base_ME == last_M1)).sum(-1)
    shared_T[doubtful_T] = (fired_ME * above_ME).sum(-1) + torch.minimum(tied_M, top_k - above_ME.sum(-1))
    return shared_T.long(), chosen_T.long()


def base_divergence(output: RouterOutput, rule: ScoringRule) -> Tensor:
    """Return ``KL(p || p0)`` of each token in nats, p0 the pretrained router's probabilities.

    Shape:
        - (T,), at least 0; exactly 0 where the probabilities are the same.
    """
    assert output.base_logits_TE is not None
    base_TE, probs_TE = rule.probabilities(output.base_logits_TE), output.probs_TE.float()
    # A head at the answer position leaves most tokens as they were.
    moved_T = (probs_TE - base_TE).abs().amax(1).nonzero().squeeze(-1)
    floor = torch.finfo(torch.float32).tiny
    probs_ME, base_ME = (one[moved_T].clamp(min=floor) for one in (probs_TE, base_TE))
    log_ratio_ME = (probs_ME / base_ME).log()
    # sum p (r + e^-r - 1) is sum p r, as both sum to one, but its terms are all positive: rounding does not add up.
    divergence_M = (probs_ME * (log_ratio_ME + torch.expm1(-log_ratio_ME))).sum(-1)
    return torch.zeros_like(probs_TE[:, 0]).index_copy_(0, moved_T, divergence_M.clamp(min=0))


class BaseDrift(RoutingMetric):
    """Overlap of the chosen experts with the pretrained router's on the same hidden states, and the divergence from it.

    Formula: ``base_overlap = sum_t |S_t and S0_t| / sum_t |S_t|``, 1 where the routing is the pretrained router's,
    NaN where nothing was chosen; among experts that tie for the last places of ``S0_t`` those of ``S_t`` come first.
    ``base_kl = mean_t KL(p_t || p0_t)``, 0 where nothing moved, ``p0`` the rule's probabilities of ``z0``.

    Reference:
        Muennighoff et al. 2024, section 5.1 (router saturation), https://arxiv.org/abs/2409.02060
    """

    needs = frozenset({"base_logits"})
    axes: ClassVar[Mapping[str, str]] = {"base_overlap": "L", "base_kl": "L"}
    shared_L: Count
    chosen_L: Count
    divergence_L: Sum
    tokens_L: Count

    def update(self, trace: RoutingTrace, outcome: Outcome) -> None:
        for index, output in self.layers(trace):
            assert output.rule is not None
            shared_T, chosen_T = base_overlap(output, self.shape.top_k)
            self.shared_L[index] += shared_T.sum()
            self.chosen_L[index] += chosen_T.sum()
            self.divergence_L[index] += base_divergence(output, output.rule).double().sum()
            self.tokens_L[index] += len(output.mask_T)

    def compute(self) -> dict[str, Tensor]:
        return {
            "base_overlap": self.per_token(self.shared_L.double(), self.chosen_L),
            "base_kl": self.per_token(self.divergence_L, self.tokens_L),
        }
