"""Arithmetic that every room shares: the stable top-k, shares of a sum, entropy."""

import torch
from torch import Tensor


def stable_top_k(scores_TE: Tensor, top_k: int) -> Tensor:
    """Return the indices of the K largest scores per token, ties broken towards the lower index.

    Args:
        scores_TE: Selection scores.
        top_k: K, at most E.

    Example:
        >>> stable_top_k(torch.tensor([[1.0, 2.0, 2.0, 0.0]]), 2).tolist()
        [[1, 2]]
    """
    return torch.sort(scores_TE, dim=-1, descending=True, stable=True).indices[:, :top_k]


def normalised(weights_TK: Tensor) -> Tensor:
    """Return weights divided by their sum per token."""
    return weights_TK / weights_TK.sum(-1, keepdim=True).clamp(min=torch.finfo(weights_TK.dtype).tiny)


def entropy(probs: Tensor) -> Tensor:
    """Return the entropy in nats of distributions along the last axis; ``0 ln 0 = 0``.

    Example:
        >>> entropy(torch.tensor([[0.5, 0.5, 0.0]]))
        tensor([0.6931])
    """
    floor = torch.finfo(probs.dtype).tiny  # keeps the gradient finite where a probability underflows
    return -(probs * probs.clamp(min=floor).log()).sum(-1)
