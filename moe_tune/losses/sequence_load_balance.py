"""Load balancing within each question: every prompt by itself should use all experts."""

import torch
from torch import Tensor

from moe_tune.losses.base import AuxLoss, LossContext
from moe_tune.routing import RouterOutput, RoutingTrace


class SequenceLoadBalanceLoss(AuxLoss):
    """Pushes the tokens of each question towards using all experts of a layer alike.

    Formula: ``E sum_i F_qi P_qi`` per question q, then the mean over questions with a token, then over layers;
    ``F_qi`` is expert i's share of the question's choices (no gradient), ``P_qi`` its mean probability over them.
    Value 1 when F or P is uniform within every question, (E/K) times the probability mass on the set when the tokens of
    each question choose one set of K. Stricter than ``LoadBalanceLoss``: it also forbids questions to specialise.

    Args:
        weight: Factor on the loss; DeepSeek-V3 was pretrained with 0.0001.
        scope: ``all``; ``null`` follows the heads, and is refused where they act at ``answer``: one token per question
            cannot be balanced.

    Raises:
        ConfigError: The scope is ``answer``.

    Reference:
        DeepSeek-AI 2024, "DeepSeek-V3", https://arxiv.org/abs/2412.19437
    """

    scopes = ("all",)

    def compute(self, trace: RoutingTrace, context: LossContext) -> Tensor:
        question_T = trace.question_T[trace.mask(self.scope or context.scope)]
        return self.mean_over_layers(trace, context, lambda output: sequence_load_balance(output, question_T))


def sequence_load_balance(output: RouterOutput, question_T: Tensor) -> Tensor:
    """Return ``E sum_i F_qi P_qi`` of one layer, averaged over its questions.

    Args:
        output: The layer's routing, all of whose tokens count; at least one.
        question_T: Which question a token belongs to.

    Example:
        >>> probs = torch.full((4, 4), 0.25)
        >>> choice = torch.tensor([[0], [1], [2], [3]])
        >>> output = RouterOutput(probs, probs, probs[:, :1], choice, torch.ones(4).bool(), 0)
        >>> float(sequence_load_balance(output, torch.tensor([0, 0, 7, 7])))
        1.0
    """
    probs_TE = output.probs_TE
    _, place_T, tokens_Q = question_T.unique(return_inverse=True, return_counts=True)
    chosen_TE = torch.zeros_like(probs_TE).scatter_add(-1, output.experts_TK, output.counted_TK.to(probs_TE.dtype))
    empty_QE = probs_TE.new_zeros(len(tokens_Q), probs_TE.shape[-1])
    counts_QE = empty_QE.index_add(0, place_T, chosen_TE)
    share_QE = counts_QE / counts_QE.sum(-1, keepdim=True).clamp(min=1)
    mean_QE = empty_QE.index_add(0, place_T, probs_TE) / tokens_Q[:, None]
    return probs_TE.shape[-1] * torch.mean((share_QE * mean_QE).sum(-1))
