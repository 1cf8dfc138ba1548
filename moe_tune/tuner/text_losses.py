"""The one pass over documents: how well a model predicts the second half of each from what comes before."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import NumericsError
from moe_tune.base.ranks import joined_over_ranks
from moe_tune.data.text_batching import TextBatch
from moe_tune.gates.gated_model import GatedModel

AT_ONCE = 1024
"""Tokens whose logits over the vocabulary are in memory at a time."""


class DocumentLosses(NamedTuple):
    """How well documents are predicted.

    Args:
        document_D: Index of each document, ascending.
        loss_D: Summed loss of its scored tokens in nats, double precision.
        tokens_D: How many those are.

    Shape:
        ``(D,)``, on the CPU.
    """

    document_D: Tensor
    loss_D: Tensor
    tokens_D: Tensor


@torch.no_grad()
def document_losses(
    gated: GatedModel,
    batches: Iterable[TextBatch],
    where: str = "text",
    numerics: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> DocumentLosses:
    """Return the next-token losses of all processes' documents, each alone in a row; every process has to come here.

    Formula: ``l_d = - sum_{t > S/2} log p(x_t | x_<t)``. Heads act at their scope: ``answer`` is the last token of the
    first half and every one of the second but its last, ``all`` every real token. What acts is the session's around it.
    No random number is drawn.

    Args:
        gated: The model with heads on it.
        batches: Documents.
        where: What they are, for messages.
        numerics: Gives the context of a forward pass, such as autocast.

    Raises:
        NumericsError: A loss is not finite.
    """
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    training = gated.training
    gated.train(False)
    try:
        for given in batches:
            batch = given.to(gated.device)
            with gated.session(needs=(), answer_BS=batch.answer_BS), numerics():
                found.append((batch.document_B.cpu(), _losses(gated, batch).cpu(), batch.answer_BS.sum(-1).cpu()))
    finally:
        gated.train(training)
    document_D, loss_D, tokens_D = (joined_over_ranks(torch.cat(parts)) for parts in zip(*found, strict=True))
    if not torch.isfinite(loss_D).all():
        raise NumericsError(
            f"expected finite losses of documents but some are not ({where}). "
            "Hint: lower the learning rate, or use a base dtype with more range."
        )
    order_D = document_D.argsort()
    return DocumentLosses(document_D[order_D], loss_D[order_D], tokens_D[order_D])


def _losses(gated: GatedModel, batch: TextBatch) -> Tensor:
    """Return the summed loss of each row, (B,), in double precision."""
    body: Any = gated.model.base_model
    hidden_BSD = body(
        input_ids=batch.input_ids_BS, attention_mask=batch.attention_mask_BS, use_cache=False
    ).last_hidden_state
    row_M, place_M = batch.answer_BS.nonzero(as_tuple=True)
    loss_BS = torch.zeros(batch.next_BS.shape, dtype=torch.float64, device=hidden_BSD.device)
    for row_N, place_N in zip(row_M.split(AT_ONCE), place_M.split(AT_ONCE), strict=True):
        logits_NV = gated.vocabulary_logits(hidden_BSD[row_N, place_N]).float()
        token_N = batch.next_BS[row_N, place_N]
        loss_BS[row_N, place_N] = functional.cross_entropy(logits_NV, token_N, reduction="none").double()
    return loss_BS.sum(-1)
