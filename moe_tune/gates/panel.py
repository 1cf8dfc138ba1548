"""How the answer tokens of several router heads lie in one batch: those of a question are neighbours."""

import torch
from torch import Tensor


def head_rows(heads: int) -> list[slice]:
    """Return where the tokens of each head are.

    Args:
        heads: How many heads are compared, N.

    Example:
        >>> [list(range(6))[rows] for rows in head_rows(2)]
        [[0, 2, 4], [1, 3, 5]]
    """
    return [slice(index, None, heads) for index in range(heads)]


def interleaved(parts: list[Tensor]) -> Tensor:
    """Return the rows of all heads as one batch: the inverse of taking ``head_rows``.

    Args:
        parts: One tensor per head, of equal shape.
    """
    return parts[0] if len(parts) == 1 else torch.stack(parts, dim=1).flatten(0, 1)
