"""Which tokens of lm-eval's batches are real, and which of them predict one of a continuation."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from lm_eval.models.utils import Collator
from torch import Tensor

Request = tuple[Any, list[int], list[int]]
"""A request of lm-eval: its text, the tokens of its prompt, those of its continuation."""


class NotedBatches(Collator):
    """lm-eval's batching, unchanged; it says of which requests the batch is that the model is called with next.

    Args:
        note: Takes a batch before it runs, and ``None`` when it has.
        *given: lm-eval's arguments.
        **named: Likewise.
    """

    def __init__(self, note: Callable[[Sequence[Request] | None], None], *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.note = note

    def get_batched(self, *given: Any, **named: Any) -> Iterator[Sequence[Request]]:
        """Yield lm-eval's batches."""
        batches = super().get_batched(*given, **named)
        while (batch := next(batches, None)) is not None:
            self.note(batch)
            yield batch
            self.note(None)  # the next batch's size may be tried out with tokens of nobody's


def token_masks(batch: Sequence[Request], ids_BS: Tensor) -> tuple[Tensor, Tensor]:
    """Return which tokens of a batch are real and which are answer tokens, both (B, S).

    A row holds a prompt and its continuation but for the last token, padded on the right. Answer tokens are the last of
    the prompt and every one of the continuation but the last: those that predict a token of the continuation.

    Example:
        >>> real_BS, answer_BS = token_masks([("", [5, 6, 7], [8, 9]), ("", [5], [6])], torch.zeros(2, 4))
        >>> real_BS.int().tolist(), answer_BS.int().tolist()
        ([[1, 1, 1, 1], [1, 0, 0, 0]], [[0, 0, 1, 1], [1, 0, 0, 0]])
    """
    ends_B = torch.tensor([len(prompt) + len(continuation) - 1 for _, prompt, continuation in batch])
    starts_B = torch.tensor([len(prompt) - 1 for _, prompt, _ in batch])
    rows, width = ids_BS.shape
    if (rows, width) != (len(batch), int(ends_B.max())):
        raise RuntimeError(f"a batch of lm-eval is {rows} x {width} but its requests are {len(batch)} x {ends_B.max()}")
    place_S = torch.arange(width)
    real_BS = place_S < ends_B[:, None]
    answer_BS = real_BS & (place_S >= starts_B[:, None])
    return real_BS.to(ids_BS.device), answer_BS.to(ids_BS.device)
