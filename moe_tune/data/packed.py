"""Cloze questions in one row each: the prompt once, and behind it the choices, which do not see one another."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.data.encoding import PromptedQuestion


@dataclass(frozen=True, slots=True, eq=False)
class PackedChoices:
    """The choices of a batch of cloze questions; M counts their tokens, each predicted by the one before it.

    A row holds its prompt and all tokens of each choice but the last, which predicts nothing.

    Args:
        branch_BS: 0 at tokens of the prompt, 1 more than its index at those of a choice.
        position_BS: Position of each token in the text of the prompt and its choice.
        row_M: Row of each choice token.
        place_M: Where in the row the token stands that predicts it.
        token_M: The choice token.
        choice_M: Index of its choice.
        characters_BA: Characters of each choice's text, 1 where there is none.

    Shape:
        ``(B, S)``, ``(M,)`` and ``(B, A)``, all int64.
    """

    branch_BS: Tensor
    position_BS: Tensor
    row_M: Tensor
    place_M: Tensor
    token_M: Tensor
    choice_M: Tensor
    characters_BA: Tensor

    @classmethod
    def of(cls, prompts: Sequence[PromptedQuestion], most: int, start: int = 0) -> "PackedChoices":
        """Return the choices of prompts.

        Args:
            prompts: Cloze questions.
            most: Room for so many choices of each.
            start: Tokens that rows leave out at their beginning; places are still those of whole rows.
        """
        sizes = len(prompts), max(one.length for one in prompts)
        branch_BS, position_BS = torch.zeros(sizes, dtype=torch.long), torch.zeros(sizes, dtype=torch.long)
        characters_BA = torch.ones(len(prompts), most, dtype=torch.long)
        scored: list[Tensor] = []
        for row, one in enumerate(prompts):
            before = begin = len(one.ids_S)
            position_BS[row, :before] = torch.arange(before)
            for index, ids in enumerate(one.choices):
                end = begin + len(ids) - 1
                branch_BS[row, begin:end] = index + 1
                position_BS[row, begin:end] = torch.arange(before, before + len(ids) - 1)
                place = torch.cat([torch.tensor([before - 1]), torch.arange(begin, end)])
                scored.append(
                    torch.stack([torch.full_like(place, row), place, ids.long(), torch.full_like(place, index)])
                )
                begin = end
            characters_BA[row, : len(one.choices)] = torch.tensor([len(text) for text in one.question.choices])
        row_M, place_M, token_M, choice_M = torch.cat(scored, dim=1)
        return cls(branch_BS[:, start:], position_BS[:, start:], row_M, place_M, token_M, choice_M, characters_BA)

    def to(self, device: torch.device) -> "PackedChoices":
        """Return the choices on a device."""
        return PackedChoices(*(getattr(self, one.name).to(device) for one in fields(self)))

    def mask(self, real_BS: Tensor, dtype: torch.dtype) -> Tensor:
        """Return what is added to attention scores: 0 at earlier tokens of the prompt and the same choice, else least.

        Shape:
            - returns (B, 1, S, S).
        """
        seen_BSS = self.seen(self.branch_BS) & real_BS.bool()[:, None]
        seen_BSS = seen_BSS | torch.eye(seen_BSS.shape[-1], dtype=torch.bool, device=seen_BSS.device)
        return torch.zeros(seen_BSS.shape, dtype=dtype, device=seen_BSS.device).masked_fill(
            ~seen_BSS, torch.finfo(dtype).min
        )[:, None]

    @staticmethod
    def seen(branch_BS: Tensor) -> Tensor:
        """Return which tokens (last axis) each token sees: those of the prompt and of its own choice up to itself."""
        mine_BSS, other_BSS = branch_BS[:, :, None], branch_BS[:, None]
        return ((other_BSS == 0) | (other_BSS == mine_BSS)).tril()

    def answers(self, real_BS: Tensor, answer_position_B: Tensor) -> "AnswerTokens":
        """Return the answer tokens of each row: the last of its prompt, and those of its choices."""
        length_B = real_BS.sum(-1)
        most = int((length_B - answer_position_B).max())
        place_BW = answer_position_B[:, None] + torch.arange(most, device=real_BS.device)
        real_BW = place_BW < length_B[:, None]
        place_BW = torch.where(real_BW, place_BW, answer_position_B[:, None])
        branch_BW, position_BW = self.branch_BS.gather(1, place_BW), self.position_BS.gather(1, place_BW)
        return AnswerTokens(position_BW, real_BW, self.seen(branch_BW), self.place_M - answer_position_B[self.row_M])

    def log_likelihoods(self, logits_MV: Tensor) -> Tensor:
        """Return the log-likelihood of each choice, (B x N, A), from logits (M x N, V); 0 where there is no choice."""
        heads = len(logits_MV) // len(self.token_M)
        rows, most = self.characters_BA.shape
        log_prob_M = -functional.cross_entropy(logits_MV, self.token_M.repeat_interleave(heads), reduction="none")
        row_MN = self.row_M[:, None] * heads + torch.arange(heads, device=self.row_M.device)
        place_MN = row_MN * most + self.choice_M[:, None]
        return logits_MV.new_zeros(rows * heads * most).index_add(0, place_MN.flatten(), log_prob_M).view(-1, most)


@dataclass(frozen=True, slots=True, eq=False)
class AnswerTokens:
    """The answer tokens of a batch of cloze questions, without their prompts.

    Args:
        position_BW: Position of each in the text of the prompt and its choice.
        real_BW: False at padding.
        seen_BWW: Which answer tokens (last axis) each one sees.
        place_M: Which answer token of its row predicts each choice token.
    """

    position_BW: Tensor
    real_BW: Tensor
    seen_BWW: Tensor
    place_M: Tensor
