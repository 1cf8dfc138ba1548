"""Entropy-k: few experts where the router is sure, many where it is not."""

import itertools

import torch
from torch import Tensor

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead
from moe_tune.routing import LayerTable, ScoringRule, entropy


class EntropyKHead(RouterHead):
    r"""Chooses the number of experts from the router's entropy, in levels that training questions fill alike.

    Formula: ``k_t = ks[j]`` with ``j`` the number of thresholds below ``H(p_t)``; ``S = top-k_t(z)``, ``w`` by the
    family's rule (``p[S]``). With J levels the thresholds are the 1/J, ..., (J-1)/J quantiles of the entropy over the
    training questions. They are infinite until calibration, and ``k_t`` is the family's K until then. Afterwards every
    token has ``ks[-1]`` slots, those beyond its own ``k_t`` unused.

    Args:
        ks: Numbers of experts from low to high entropy, ascending, at least two, each >= 1 (more than the layer has
            counts as all of them).

    Shape:
        - ``thresholds_J``: (J - 1,), a float32 buffer, in nats.
        - ``weights_TK``: (T, ``ks[-1]``).

    Raises:
        ConfigError: ``ks`` has fewer than two levels, does not ascend, or starts below 1.

    Reference:
        This project's; public code for adaptive k has fixed thresholds, Huang et al. 2024,
        https://arxiv.org/abs/2403.07652, has another rule for the same purpose.
    """

    thresholds_J: Tensor
    traits = HeadTraits(needs_calibration=True, variable_k=True)

    def __init__(self, ks: list[int] = [4, 8, 12]) -> None:  # noqa: B006 (copied, never changed)
        super().__init__()
        ascend = len(ks) >= 2 and ks[0] >= 1 and all(low < high for low, high in itertools.pairwise(ks))
        require(ascend, "two or more ascending numbers", ks, "head.ks", "try [4, 8, 12].")
        self.ks = list(ks)

    def bind(self, gate: BaseGate) -> None:
        self.rule = gate.rule
        thresholds_J = torch.full((len(self.ks) - 1,), torch.inf, dtype=torch.float32, device=gate.weight_ED.device)
        self.register_buffer("thresholds_J", thresholds_J)

    def calibrate(self, table: LayerTable) -> None:
        """Set the thresholds so that every level gets the same share of the training questions."""
        entropy_Q = entropy(self.rule.probabilities(table.logits_QE))
        levels = len(self.ks)
        shares_J = torch.arange(1, levels, device=entropy_Q.device) / levels
        self.thresholds_J.copy_(torch.quantile(entropy_Q, shares_J))

    def is_calibrated(self) -> bool:
        """Whether there are thresholds; without them slots stay the family's, so that the start is exact."""
        return bool(self.thresholds_J.isfinite().all())

    def slots_for(self, rule: ScoringRule) -> int:
        return self.ks[-1] if self.is_calibrated() else rule.top_k

    def admit(self, logits_TE: Tensor, probs_TE: Tensor, experts_TK: Tensor) -> Tensor | None:
        if not self.is_calibrated():
            return None
        ks_J = torch.tensor(self.ks, device=experts_TK.device)
        level_T = (entropy(probs_TE)[:, None] > self.thresholds_J).sum(-1)
        return torch.arange(experts_TK.shape[1], device=experts_TK.device) < ks_J[level_T][:, None]
