"""Default experts: what an expert usually says stands in for it in the router's gradient where it was not asked."""

import torch
from torch import Tensor, nn

from moe_tune.base.errors import require
from moe_tune.base.ranks import summed_over_ranks
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.heads.dense_mixer import unchosen_weights
from moe_tune.routing import RouterOutput, StockRouter


class DefaultExpertHead(RouterHead):
    r"""Gives the router a gradient from the experts that were not chosen, through a running mean of their outputs.

    Formula: ``y = sum_S w_i f_i(h) + (d - sg(d))`` with ``d = sum_{i not in S} p_i sg(sum_S w / sum_S p) e_i``: the
    second sum acts in the backward pass only, so that the output stays the pretrained one. In training, after every
    optimiser step, ``e_i <- beta e_i + (1 - beta) mean f_i(h)`` over the tokens that chose expert i since the last one,
    over micro-batches and ranks; ``e = 0`` at the start, and an expert nobody chose keeps its own. Sums are not kept in
    checkpoints, as the gradients accumulated beside them are not. Collecting the outputs runs the chosen experts a
    second time. There is nothing to train by gradient in it: put it in a stack with a head that has.

    Args:
        beta: Share of the running mean that an update keeps, in [0, 1).

    Shape:
        - ``default_ED``: (E, D), a float32 buffer.
        - returns the mixed outputs, (T, D).

    Raises:
        ConfigError: ``beta`` is outside [0, 1).

    Reference:
        Panda et al. 2025, "Dense Backpropagation Improves Training for Sparse Mixture-of-Experts",
        https://arxiv.org/abs/2504.12463; the straight-through form is this project's.
    """

    default_ED: Tensor
    sums_ED: Tensor
    counts_E: Tensor
    traits = HeadTraits(keeps_mass=True)

    def __init__(self, beta: float = 0.99) -> None:
        super().__init__()
        require(0 <= beta < 1, "a share in [0, 1)", beta, "head.beta", "the default is 0.99.")
        self.beta = beta
        self.unseen = False  # whether the batch in hand is still to be collected

    def bind(self, gate: BaseGate) -> None:
        zeros_ED = torch.zeros_like(gate.weight_ED.detach(), dtype=torch.float32)
        self.register_buffer("default_ED", zeros_ED)
        self.register_buffer("sums_ED", zeros_ED.clone(), persistent=False)
        counts_E = torch.zeros(len(zeros_ED), dtype=torch.long, device=zeros_ED.device)
        self.register_buffer("counts_E", counts_E, persistent=False)

    def observe(self, output: RouterOutput) -> None:
        """Note that a batch is new: when gradient checkpointing computes it again, nothing is collected twice."""
        self.unseen = True

    def fold(self, router: StockRouter) -> StockRouter:
        return router  # the mixture is the stock one; what is added acts in the gradient alone

    def mix(self, mixed_TD: Tensor, hidden_TD: Tensor, output: RouterOutput, experts: nn.Module) -> Tensor:
        if self.training and self.unseen:
            self.unseen = False
            self._collect(hidden_TD, output, experts)
        default_TD = unchosen_weights(output) @ self.default_ED
        return mixed_TD + (default_TD - default_TD.detach()).to(hidden_TD.dtype)

    @torch.no_grad()
    def _collect(self, hidden_TD: Tensor, output: RouterOutput, experts: nn.Module) -> None:
        """Add up what each chosen expert makes of its tokens."""
        experts_TK = output.experts_TK
        token_N, slot_N = output.counted_TK.nonzero(as_tuple=True)
        chosen_N = experts_TK[token_N, slot_N]
        one_N1 = torch.ones(len(chosen_N), 1, dtype=hidden_TD.dtype, device=hidden_TD.device)
        outputs_ND = experts(hidden_TD[token_N], chosen_N[:, None], one_N1)
        self.sums_ED.index_add_(0, chosen_N, outputs_ND.float())
        self.counts_E.index_add_(0, chosen_N, torch.ones_like(chosen_N))

    def after_step(self) -> None:
        sums_ED, counts_E = summed_over_ranks(self.sums_ED), summed_over_ranks(self.counts_E)
        mean_ED = sums_ED / counts_E.clamp(min=1)[:, None]
        moved_ED = self.beta * self.default_ED + (1 - self.beta) * mean_ED
        self.default_ED.copy_(torch.where(counts_E[:, None] > 0, moved_ED, self.default_ED))
        self.sums_ED.zero_()
        self.counts_E.zero_()
