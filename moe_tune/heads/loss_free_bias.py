"""Loss-free balancing: a bias on the choice alone, nudged after every step towards equal load."""

import math

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import RouterOutput, StockRouter


class LossFreeBiasHead(RouterHead):
    r"""Balances the experts without a loss: a bias moves the choice, by a fixed step per update, never the weights.

    Formula: ``S = topK(p + b)``, ``w`` from the unbiased ``p``. After every optimiser step
    ``b_i <- b_i + gamma sign(mean_j c_j - c_i)``, with ``c`` the choices of all tokens the head acted on since the last
    step, over all micro-batches and ranks, padding left out. ``b`` is frozen in evaluation; a step that saw no token
    leaves it as it is. It has nothing to train by gradient: put it in a stack with a head that has. Counts are not kept
    in checkpoints, as the gradients accumulated beside them are not.

    Args:
        gamma: Step of the bias per update, in units of probability, > 0; the paper takes 1e-3.

    Shape:
        - ``bias_E``: (E,), a float32 buffer; ``counts_E``: (E,), an int64 buffer.

    Raises:
        ConfigError: ``gamma`` is not above 0, or not finite.

    Reference:
        Wang et al. 2024, "Auxiliary-Loss-Free Load Balancing Strategy for Mixture-of-Experts",
        https://arxiv.org/abs/2408.15664
    """

    bias_E: Tensor
    counts_E: Tensor
    traits = HeadTraits(keeps_mass=True, selects_by_probability=True, chosen_by_logits=True)

    def __init__(self, gamma: float = 1e-3) -> None:
        super().__init__()
        require(0 < gamma < math.inf, "a step above 0", gamma, "head.gamma", "the default is 1e-3.")
        self.gamma = gamma

    def bind(self, gate: BaseGate) -> None:
        self.rule, experts, device = gate.rule, gate.rule.num_experts, gate.weight_ED.device
        self.register_buffer("bias_E", torch.zeros(experts, dtype=torch.float32, device=device))
        counts_E = torch.zeros(experts, dtype=torch.long, device=device)
        self.register_buffer("counts_E", counts_E, persistent=False)

    def changes_selection(self) -> bool:
        """Whether the bias has moved; until then the scores stay the logits, so that even ties fall as they did."""
        return bool(self.bias_E.any())

    def select(self, scores_TE: Tensor) -> Tensor:
        return self.rule.probabilities(scores_TE) + self.bias_E if self.changes_selection() else scores_TE

    def fold(self, router: StockRouter) -> StockRouter:
        return router.choosing_by(self.bias_E, type(self).__name__) if self.changes_selection() else router

    def observe(self, output: RouterOutput) -> None:
        self.counts_E += output.counts_E()

    def after_step(self) -> None:
        self.bias_E += self.gamma * load_sign(summed_over_ranks(self.counts_E))
        self.counts_E.zero_()


def load_sign(counts_E: Tensor) -> Tensor:
    """Return ``sign(mean_j c_j - c_i)``: 1 for an expert with less than its share, -1 with more, 0 with just that.

    Example:
        >>> load_sign(torch.tensor([5, 3, 1])).tolist()
        [-1, 0, 1]
    """
    return torch.sign(counts_E.sum() - len(counts_E) * counts_E)
