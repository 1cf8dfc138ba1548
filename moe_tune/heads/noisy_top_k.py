"""Noisy top-k: learned noise on the logits makes the choice explore while the router is trained."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead


class NoisyTopKHead(RouterHead):
    r"""Adds noise of a learned, token-dependent size to the logits in training; in evaluation there is none.

    Formula: ``z' = z + n softplus(W_n h + b_n)`` with ``n ~ N(0, I)``, in training; ``z' = z`` in evaluation. ``S`` and
    ``w`` both follow from ``z'`` by the family's own rule (Shazeer's softmax over ``S`` alone would not start at the
    pretrained router). ``W_n = 0`` and ``b_n = -5`` at the start, a standard deviation of 0.0067. The noise comes from
    torch's global generator, so that gradient checkpointing draws it again. In evaluation its parameters have no
    effect, and so get no gradient.

    Shape:
        - ``noise_weight_ED``: (E, D); ``noise_bias_E``: (E,), both trained, float32.
        - output ``logits_TE``: (T, E).

    Reference:
        Shazeer et al. 2017, "Outrageously Large Neural Networks", https://arxiv.org/abs/1701.06538 (citation
        unverified); the base family's form is this project's.
    """

    noise_weight_ED: nn.Parameter
    noise_bias_E: nn.Parameter
    traits = HeadTraits(trainable=True, train_only=True)

    def bind(self, gate: BaseGate) -> None:
        weight_ED = gate.weight_ED.detach()
        self.noise_weight_ED = nn.Parameter(torch.zeros_like(weight_ED, dtype=torch.float32))
        self.noise_bias_E = nn.Parameter(torch.full_like(weight_ED[:, 0], -5.0, dtype=torch.float32))

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        if not self.training:
            return logits_TE
        kind = logits_TE.dtype
        size_TE = functional.linear(hidden_TD.to(kind), self.noise_weight_ED.to(kind), self.noise_bias_E.to(kind))
        return logits_TE + torch.randn_like(logits_TE) * functional.softplus(size_TE)

    def router_weight(self, weight_ED: Tensor) -> Tensor:
        """Return the weight so far: the noise has mean 0 and is absent in evaluation."""
        return weight_ED
