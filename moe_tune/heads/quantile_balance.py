"""Quantile balancing: a price per expert, set so that each would be chosen by its share of the tokens."""

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import RouterOutput, StockRouter


class QuantileBalanceHead(RouterHead):
    r"""Balances the experts without a loss: each has a price, the quantile at which it would get its share of tokens.

    Formula: ``S = topK(s - beta)`` with ``s = p``, the softmax of the logits; ``w`` from the unbiased ``p``. Per
    training batch of M tokens, ``alpha_t`` is the (K+1)-th largest of ``s_t - beta`` and ``cand_i`` the
    (floor(M K / E) + 1)-th largest over t of ``s_ti - alpha_t``. After every optimiser step
    ``v = ema beta + (1 - ema) mean cand`` over micro-batches and ranks, and ``beta = v - mean v``. ``beta`` is frozen
    in evaluation; a step that saw no token leaves it as it is. It has nothing to train by gradient: put it in a stack
    with a head that has. Candidates are not kept in checkpoints, as the gradients accumulated beside them are not.

    Args:
        ema: Share of the old price that an update keeps, in [0, 1).

    Shape:
        - ``beta_E``: (E,), a float32 buffer, in units of probability.

    Raises:
        ConfigError: ``ema`` is outside [0, 1), or the router chooses all experts of the layer.

    Reference:
        Megatron-LM, "Implement Quantile Balancing in MoE", https://github.com/NVIDIA/Megatron-LM/pull/5349; the default
        of ``ema`` is this project's.
    """

    beta_E: Tensor
    candidates_E: Tensor
    batches: Tensor
    traits = HeadTraits(keeps_mass=True, selects_by_probability=True, chosen_by_logits=True)

    def __init__(self, ema: float = 0.9) -> None:
        super().__init__()
        require(0 <= ema < 1, "a share in [0, 1)", ema, "head.ema", "the default is 0.9.")
        self.ema = ema

    def bind(self, gate: BaseGate) -> None:
        self.rule, experts, device = gate.rule, gate.rule.num_experts, gate.weight_ED.device
        hint = "a router that chooses every expert is balanced."
        require(self.rule.top_k < experts, f"fewer than {experts} experts per token", self.rule.top_k, "head", hint)
        self.register_buffer("beta_E", torch.zeros(experts, dtype=torch.float32, device=device))
        self.register_buffer("candidates_E", torch.zeros_like(self.beta_E), persistent=False)
        self.register_buffer("batches", torch.zeros((), dtype=torch.long, device=device), persistent=False)

    def changes_selection(self) -> bool:
        """Whether prices have moved; until then the scores stay the logits, so that even ties fall as they did."""
        return bool(self.beta_E.any())

    def select(self, scores_TE: Tensor) -> Tensor:
        return self.rule.probabilities(scores_TE) - self.beta_E if self.changes_selection() else scores_TE

    def fold(self, router: StockRouter) -> StockRouter:
        return router.choosing_by(-self.beta_E, type(self).__name__) if self.changes_selection() else router

    def observe(self, output: RouterOutput) -> None:
        if len(output.logits_TE):
            probs_TE = self.rule.probabilities(output.logits_TE)
            self.candidates_E += quantile_prices(probs_TE, self.beta_E, self.rule.top_k)
            self.batches += 1

    def after_step(self) -> None:
        batches = summed_over_ranks(self.batches)
        mean_E = summed_over_ranks(self.candidates_E) / batches.clamp(min=1)
        value_E = self.ema * self.beta_E + (1 - self.ema) * mean_E
        self.beta_E.copy_(torch.where(batches > 0, value_E - value_E.mean(), self.beta_E))
        self.candidates_E.zero_()
        self.batches.zero_()


def quantile_prices(scores_TE: Tensor, beta_E: Tensor, top_k: int) -> Tensor:
    """Return each expert's candidate price: at it, floor(M K / E) of the M tokens would choose it over their (K+1)-th.

    Args:
        scores_TE: Unbiased scores of at least one token, all real.
        beta_E: Prices so far.
        top_k: K, below E.

    Example:
        >>> quantile_prices(torch.tensor([[0.75, 0.25], [0.625, 0.375]]), torch.zeros(2), 1)
        tensor([0.2500, 0.0000])
    """
    tokens, experts = scores_TE.shape
    alpha_T1 = (scores_TE - beta_E).sort(-1, descending=True).values[:, top_k : top_k + 1]
    return (scores_TE - alpha_T1).sort(0, descending=True).values[tokens * top_k // experts]
