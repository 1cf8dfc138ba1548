"""The closed forms in which families weigh the experts of a token."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.routing.functions import normalised

Score = Literal["softmax", "sigmoid", "sqrt_softplus"]


@dataclass(frozen=True, slots=True)
class ClosedForm:
    """What a chosen expert weighs: ``w_i = c_i s_i(z)``, or ``c_i s_i(z) / sum_S s(z)``.

    Args:
        score: ``s``: softmax over all experts, sigmoid of each, or the root of each one's softplus.
        renormalise: Whether the scores are divided by their sum over the chosen experts.
        factor_E: ``c``: one factor, or one of each expert.

    Example:
        >>> ClosedForm("sigmoid", renormalise=True, factor_E=(2.5,)).name
        'sigmoid, renormalised, x 2.5'
    """

    score: Score
    renormalise: bool
    factor_E: tuple[float, ...] = (1.0,)

    @property
    def name(self) -> str:
        """Its name in tables."""
        words = [self.score.replace("_", " "), *(["renormalised"] if self.renormalise else [])]
        if len(self.factor_E) > 1:
            words.append("x a factor of each expert")
        elif self.factor_E != (1.0,):
            words.append(f"x {self.factor_E[0]:g}")
        return ", ".join(words)

    def scores(self, logits_TE: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the scores of all experts, at least 0."""
        if self.score == "softmax":
            return torch.softmax(logits_TE, dim=-1, dtype=dtype)
        logits_TE = logits_TE.to(dtype)
        return logits_TE.sigmoid() if self.score == "sigmoid" else functional.softplus(logits_TE).sqrt()

    def total(self, logits_TE: Tensor) -> Tensor | None:
        """Return the sum of all scores, (T, 1), where weights are scores that do not sum to one; else ``None``."""
        if self.score == "softmax" or self.renormalise:
            return None
        return self.scores(logits_TE).sum(-1, keepdim=True)

    def weights(self, probs_TE: Tensor, experts_TK: Tensor, used_TK: Tensor | None = None) -> Tensor:
        """Return the weights of chosen experts from shares of the scores' sum; times ``total``, where there is one."""
        weights_TK = probs_TE.gather(-1, experts_TK)
        if used_TK is not None:
            weights_TK = torch.where(used_TK, weights_TK, 0.0)
        if self.renormalise:
            weights_TK = normalised(weights_TK)
        if len(self.factor_E) == 1:
            return weights_TK if self.factor_E == (1.0,) else weights_TK * self.factor_E[0]
        return weights_TK * torch.tensor(self.factor_E, device=experts_TK.device, dtype=weights_TK.dtype)[experts_TK]
