"""Attention of answer tokens over kept keys and values: the prefix, the question's own tokens, and itself."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from moe_tune.answer_path.states import PromptStates

NAME = "moe_tune_answer"
"""The attention implementation the model is set to while answer tokens run."""


def answer_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    prompt_states: PromptStates,
    first_layer: int,
    seen_BNN: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend from each answer token to its prompt's kept tokens and to itself; called by the model's own layers.

    With ``seen_BNN`` it attends to those of the question's answer tokens that are true in its row.

    Kept keys and values are read in place: nothing is concatenated, and no gradient is kept for them. Scores and their
    softmax are computed in float32.

    Shape:
        - returns (B, N, Hq, C), as transformers' attention functions do.
    """
    states = prompt_states
    upper = int(module.layer_idx) - first_layer  # type: ignore[arg-type]
    questions, query_heads, tokens, channels = query.shape
    kept_heads = key.shape[1]
    groups = query_heads // kept_heads
    query_BHGNC = query.float().view(questions, kept_heads, groups, tokens, channels) * scaling
    query_BHQC = query_BHGNC.flatten(2, 3)

    keys_BHSC, values_BHSC = states.own_UVBHSC[upper].float()
    length = keys_BHSC.shape[2]
    beyond_BS = torch.arange(length, device=query.device)[None] >= states.length_B[:, None]
    own_BHQS = (query_BHQC @ keys_BHSC.transpose(-1, -2)).masked_fill(beyond_BS[:, None, None], -torch.inf)
    if seen_BNN is None:
        itself_BHQN = (query_BHGNC * key.float()[:, :, None]).sum(-1, keepdim=True).flatten(2, 3)
    else:
        scores = query_BHGNC @ key.float()[:, :, None].transpose(-1, -2)
        itself_BHQN = scores.masked_fill(~seen_BNN[:, None, None], -torch.inf).flatten(2, 3)
    prefixes = _PrefixAttention(states, upper)
    scores = torch.cat([prefixes.scores(query_BHQC), own_BHQS, itself_BHQN], dim=-1)
    weights = scores.softmax(-1)
    before_BHQP, own_BHQS, itself_BHQN = weights.split([prefixes.longest, length, itself_BHQN.shape[-1]], dim=-1)
    # Padded tokens weigh exactly nothing, whatever their values are.
    mixed_BHQC = own_BHQS @ values_BHSC + prefixes.values(before_BHQP)
    itself_BHGNN, value_BH1NC = itself_BHQN.unflatten(2, (groups, tokens)), value.float()[:, :, None]
    itself_BHGNC = itself_BHGNN * value_BH1NC if seen_BNN is None else itself_BHGNN @ value_BH1NC
    mixed = (mixed_BHQC.view_as(query_BHGNC) + itself_BHGNC).flatten(1, 2)
    return mixed.transpose(1, 2).to(query.dtype).contiguous(), None


class _PrefixAttention:
    """Attention over shared prefixes: the questions of one prefix read its keys and values together."""

    def __init__(self, states: PromptStates, upper: int) -> None:
        self.kept = {index: value[upper].float() for index, value in states.prefixes.items()}
        self.longest = max((value.shape[2] for value in self.kept.values()), default=0)
        members = {index: (states.prefix_B == index).nonzero().squeeze(-1) for index in [-1, *self.kept]}
        self.members = {index: rows for index, rows in members.items() if len(rows)}
        self.order = torch.cat(list(self.members.values())).argsort()

    def scores(self, query_BHQC: Tensor) -> Tensor:
        """Return the scores over each question's prefix, (B, H, Q, longest), -inf beyond its end."""
        parts = []
        for index, rows in self.members.items():
            query = query_BHQC[rows]
            if index < 0:
                parts.append(query.new_full((*query.shape[:3], self.longest), -torch.inf))
                continue
            keys_HPC = self.kept[index][0]
            # (n, H, Q, C) as one product per head over all the prefix's questions
            flat = query.transpose(0, 1).flatten(1, 2) @ keys_HPC.transpose(-1, -2)
            part = flat.unflatten(1, (query.shape[0], query.shape[2])).transpose(0, 1)
            parts.append(nn.functional.pad(part, (0, self.longest - keys_HPC.shape[1]), value=-torch.inf))
        return torch.cat(parts)[self.order]

    def values(self, weights_BHQP: Tensor) -> Tensor:
        """Return the weighted values of each question's prefix, (B, H, Q, C)."""
        if not self.kept:
            return weights_BHQP.new_zeros(())
        channels = next(iter(self.kept.values())).shape[-1]
        parts = []
        for index, rows in self.members.items():
            weights = weights_BHQP[rows]
            if index < 0:
                parts.append(weights.new_zeros((*weights.shape[:3], channels)))
                continue
            values_HPC = self.kept[index][1]
            weights = weights[..., : values_HPC.shape[1]]
            flat = weights.transpose(0, 1).flatten(1, 2) @ values_HPC
            parts.append(flat.unflatten(1, (weights.shape[0], weights.shape[2])).transpose(0, 1))
        return torch.cat(parts)[self.order]


AttentionInterface.register(NAME, answer_attention)
AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)
