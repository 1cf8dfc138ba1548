"""Jitter: the router reads slightly noisy hidden states while it is trained."""

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import require
from moe_tune.heads.base import BaseGate, HeadTraits, RouterHead


class JitterHead(RouterHead):
    r"""Multiplies what the router reads by noise around 1 in training, so that its choices do not hang by a thread.

    Formula: ``z = W (h * u)``, ``u ~ U(1 - eps, 1 + eps)`` elementwise, in training; ``z = W h`` in evaluation. It is
    computed as ``z + W (h * (u - 1))`` with the pretrained ``W``, so that what other heads of a stack add to ``z`` has
    no noise. The noise comes from torch's global generator, so that gradient checkpointing draws it again. There is
    nothing to train in it: put it in a stack with a head that has.

    Args:
        eps: Half the width of the noise, in [0, 1); 0 is none.

    Shape:
        - input ``hidden_TD``: (T, D).
        - output ``logits_TE``: (T, E).

    Raises:
        ConfigError: ``eps`` is outside [0, 1).

    Reference:
        Fedus et al. 2021, "Switch Transformers", https://arxiv.org/abs/2101.03961
    """

    traits = HeadTraits(train_only=True)

    def __init__(self, eps: float = 1e-2) -> None:
        super().__init__()
        require(0 <= eps < 1, "a width in [0, 1)", eps, "head.eps", "the default is 0.01.")
        self.eps = eps

    def bind(self, gate: BaseGate) -> None:
        self.pretrained = (gate.weight_ED,)  # in a tuple, so that it is not a tensor of this head

    def score(self, hidden_TD: Tensor, logits_TE: Tensor) -> Tensor:
        if not self.training:
            return logits_TE
        # Drawn around 0 in float32: around 1, half precision has too few steps for it.
        noise_TD = torch.empty_like(hidden_TD, dtype=torch.float32).uniform_(-self.eps, self.eps)
        change_TD = (hidden_TD * noise_TD).to(logits_TE.dtype)
        return logits_TE + functional.linear(change_TD, self.pretrained[0].detach().to(logits_TE.dtype))

    def router_weight(self, weight_ED: Tensor) -> Tensor:
        """Return the weight so far: the noise has mean 0 and is absent in evaluation."""
        return weight_ED
