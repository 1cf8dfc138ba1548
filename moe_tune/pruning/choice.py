"""Which experts go: the lowest scores of each layer, of each group where a token chooses groups first."""

import numpy as np

from moe_tune.base.errors import ConfigError, require
from moe_tune.criteria.base import ExpertEvidence, Scores

HOW_MANY = "say --share 0.25, or --count 4 for so many experts of each layer."


def number_of(share: float | None, count: int | None, experts: int, groups: int = 1) -> int | None:
    """Return how many experts of each layer go; ``None`` for all that the criterion lets go.

    Args:
        share: Share of a layer's experts, above 0 and below 1; what is left over of a whole number per group stays.
        count: How many, instead.
        experts: Experts of a layer, E.
        groups: Groups of a layer, which lose equally many.

    Raises:
        ConfigError: Both are given, or one is out of range, or the share comes to no expert.

    Example:
        >>> number_of(0.3, None, 64), number_of(0.3, None, 64, 8), number_of(None, 5, 64)
        (19, 16, 5)
    """
    require(share is None or count is None, "a share or a count", (share, count), "--share, --count", HOW_MANY)
    if share is not None:
        require(0 < share < 1, "a share above 0 and below 1", share, "--share", HOW_MANY)
        # A share such as 0.3 of 10 is 2.9999999999999996 in double precision.
        count = int(share * experts + 1e-9) // groups * groups
        least = f"a share of at least {groups} of {experts} experts"
        require(count > 0, least, share, "--share", HOW_MANY)
        return count
    require(count is None or 0 < count < experts, f"1 to {experts - 1} experts", count, "--count", HOW_MANY)
    return count


def going(
    scores_LE: Scores, evidence: ExpertEvidence, count: int | None, groups: int = 1, *, even: bool = False
) -> dict[int, list[int]]:
    """Return the experts of each layer that go, ascending; of equal scores the lower index goes first.

    Args:
        scores_LE: What a criterion says of them.
        evidence: What they were seen to do.
        count: How many of each layer go; ``None`` takes all that may.
        groups: Groups of a layer, which lose equally many where that is asked for.
        even: Whether each layer, and each group, has to lose equally many.

    Raises:
        ConfigError: No number is given and all may go, or the criterion lets fewer go than asked for.

    Example:
        >>> seen = ExpertEvidence((0,), 4)
        >>> going(np.array([[3.0, 1.0, np.inf, 2.0]]), seen, 2)
        {0: [1, 3]}
    """
    assert not np.isnan(scores_LE).any()
    free_LE = scores_LE < np.inf
    if count is None and free_LE.all(1).any():
        raise ConfigError(f"expected how many experts go but got nothing (prune). Hint: {HOW_MANY}")
    parts = groups if even else 1
    size = evidence.num_experts // parts
    hint = "ask for fewer, or take another criterion."
    each = None
    if count is None and even:
        each = int(free_LE.reshape(len(scores_LE), parts, size).sum(-1).min())
    elif count is not None:
        require(count % parts == 0, f"a multiple of {parts}, equally many of each group,", count, "--count", HOW_MANY)
        each = count // parts
    gone: dict[int, list[int]] = {}
    for layer, scores_E, free_E in zip(evidence.layers, scores_LE, free_LE, strict=True):
        gone[layer] = []
        for start in range(0, evidence.num_experts, size):
            order = start + np.argsort(scores_E[start : start + size], kind="stable")
            may = [int(one) for one in order if free_E[one]]
            enough = each is None or len(may) >= each
            of = f"layer {layer}" + (f", experts {start} to {start + size - 1}" if parts > 1 else "")
            require(enough, f"{each} experts of {of} that the criterion lets go", len(may), "prune", hint)
            gone[layer] += may[:each]
        gone[layer].sort()
    return gone
