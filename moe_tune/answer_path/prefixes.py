"""Prefixes that prompts share: the header and the worked examples of a subject are computed once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from moe_tune.data.encoding import PromptedQuestion

SHORTEST = 64
"""Fewer shared tokens than this are not worth batches of their own: a few-shot prompt shares hundreds."""


@dataclass(frozen=True, slots=True)
class SharedPrefixes:
    """Which prompts of a split begin with the same tokens.

    Args:
        tokens_G: Token ids of each shared prefix.
        prefix_Q: The prefix of each prompt; -1 where it shares none.
    """

    tokens_G: list[tuple[int, ...]]
    prefix_Q: list[int]

    def length(self, question: int) -> int:
        """Return how many tokens a prompt's prefix has."""
        prefix = self.prefix_Q[question]
        return len(self.tokens_G[prefix]) if prefix >= 0 else 0


def shared_prefixes(prompts: Sequence[PromptedQuestion], shortest: int = SHORTEST) -> SharedPrefixes:
    """Return the longest prefixes shared by the prompts of one subject with equally many worked examples.

    The last token of a prompt, where the letter is predicted, is never part of a prefix.
    """
    groups: dict[tuple[str, int], list[int]] = {}
    for index, prompt in enumerate(prompts):
        groups.setdefault((prompt.question.subject, prompt.shots), []).append(index)
    tokens_G: list[tuple[int, ...]] = []
    prefix_Q = [-1] * len(prompts)
    for members in groups.values():
        if len(members) < 2:
            continue
        rows = [prompts[index].ids_S.numpy() for index in members]
        common = min(len(row) for row in rows) - 1
        for row in rows[1:]:
            differs = np.flatnonzero(row[:common] != rows[0][:common])
            common = int(differs[0]) if len(differs) else common
        if common >= shortest:
            for index in members:
                prefix_Q[index] = len(tokens_G)
            tokens_G.append(tuple(rows[0][:common].tolist()))
    return SharedPrefixes(tokens_G, prefix_Q)
