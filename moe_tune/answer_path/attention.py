"""Attention of answer tokens over kept keys and values: the prefix, the question's own tokens, and itself."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface

from moe_tune.answer_path.states import PromptStates
from moe_tune.base.errors import ModelError

NAME = "moe_tune_answer"
"""The attention implementation the model is set to while answer tokens run."""
UNSAID = -1
"""A window that the layer does not speak of."""
WITHOUT_EFFECT = frozenset(
    {
        *("dropout", "position_ids", "use_cache", "cache_position", "is_causal", "output_attentions"),
        *("output_hidden_states", "output_router_logits", "return_dict"),
    }
)
"""What layers may pass to their attention that changes nothing for one answer token after its prompt."""


def answer_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float,
    prompt_states: PromptStates,
    first_layer: int,
    position_BN: Tensor,
    seen_BNN: Tensor | None = None,
    sliding_window: int | None = UNSAID,
    s_aux: Tensor | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attend from each answer token to its prompt's kept tokens and to itself; called by the model's own layers.

    With ``seen_BNN`` it attends to those of the question's answer tokens that are true in its row.

    Kept keys and values are read in place: nothing is concatenated, and no gradient is kept for them. Scores and their
    softmax are computed in float32.

    Args:
        module: The layer's attention.
        query: Queries of the answer tokens, (B, Hq, N, C).
        key: Their keys, (B, H, N, C).
        value: Their values, (B, H, N, C).
        attention_mask: None is given.
        scaling: Factor on the scores.
        prompt_states: What is kept of the prompts.
        first_layer: The layer that the kept states begin with.
        position_BN: Positions of the answer tokens in the whole prompt.
        seen_BNN: Which answer tokens see which.
        sliding_window: How many tokens each sees, itself included; ``None`` is all before it.
        s_aux: A score per query head that takes part in the softmax and has no value ("sinks").
        **kwargs: What else the layer passes; without effect, or refused.

    Raises:
        ModelError: The layer passes what is not known here.

    Shape:
        - returns (B, N, Hq, C), as transformers' attention functions do.
    """
    if unknown := sorted(name for name, given in kwargs.items() if given is not None and name not in WITHOUT_EFFECT):
        raise ModelError(
            f"expected attention by scaled products, windows and sinks but {type(module).__name__} also passes "
            f"{unknown}. Hint: --model.answer_path.use never."
        )
    if sliding_window == UNSAID:
        attention: Any = module
        kinds = getattr(attention.config, "layer_types", None)
        if kinds and kinds[attention.layer_idx] == "sliding_attention":
            raise ModelError(
                f"expected an attention that is told of its window but {type(module).__name__} is not. "
                "Hint: --model.answer_path.use never."
            )
        sliding_window = None
    states = prompt_states
    upper = int(module.layer_idx) - first_layer  # type: ignore[arg-type]
    questions, query_heads, tokens, channels = query.shape
    kept_heads = key.shape[1]
    groups = query_heads // kept_heads
    query_BHGNC = query.float().view(questions, kept_heads, groups, tokens, channels) * scaling
    query_BHQC = query_BHGNC.flatten(2, 3)

    keys_BHSC, values_BHSC = keys_and_values(module, states.own_UVBHSC[upper])
    length = keys_BHSC.shape[2]
    beyond_BS = torch.arange(length, device=query.device)[None] >= states.length_B[:, None]
    own_BHQS = (query_BHQC @ keys_BHSC.transpose(-1, -2)).masked_fill(beyond_BS[:, None, None], -torch.inf)
    if seen_BNN is None:
        itself_BHQN = (query_BHGNC * key.float()[:, :, None]).sum(-1, keepdim=True).flatten(2, 3)
    else:
        scores = query_BHGNC @ key.float()[:, :, None].transpose(-1, -2)
        itself_BHQN = scores.masked_fill(~seen_BNN[:, None, None], -torch.inf).flatten(2, 3)
    prefixes = _PrefixAttention(module, states, upper)
    parts = [prefixes.scores(query_BHQC), own_BHQS, itself_BHQN]
    if sliding_window is not None:
        start_B1 = (states.position_B - states.length_B)[:, None]
        place_P = torch.arange(prefixes.longest, device=query.device)
        places = [place_P[None], start_B1 + torch.arange(length, device=query.device)]
        parts = [_within(sliding_window, part, position_BN, place) for part, place in zip(parts, places, strict=False)]
        itself = itself_BHQN if seen_BNN is None else _within(sliding_window, itself_BHQN, position_BN, position_BN)
        parts.append(itself)
    if s_aux is not None:
        sink_HG = s_aux.float().view(kept_heads, groups)
        parts.append(sink_HG.repeat_interleave(tokens, dim=1)[None, :, :, None].expand(questions, -1, -1, 1))
    weights = torch.cat(parts, dim=-1).softmax(-1)
    before_BHQP, own_BHQS, itself_BHQN, *_ = weights.split([part.shape[-1] for part in parts], dim=-1)
    # Padded tokens weigh exactly nothing, whatever their values are.
    mixed_BHQC = own_BHQS @ values_BHSC + prefixes.values(before_BHQP)
    itself_BHGNN, value_BH1NC = itself_BHQN.unflatten(2, (groups, tokens)), value.float()[:, :, None]
    itself_BHGNC = itself_BHGNN * value_BH1NC if seen_BNN is None else itself_BHGNN @ value_BH1NC
    mixed = (mixed_BHQC.view_as(itself_BHGNC) + itself_BHGNC).flatten(1, 2)
    return mixed.transpose(1, 2).to(query.dtype).contiguous(), None


def keys_and_values(module: nn.Module, kept_VBHSC: Tensor) -> tuple[Tensor, Tensor]:
    """Return the keys and values of a layer in float32; latent attention computes them from what is kept."""
    expand = getattr(module, "expand_kv", None)
    if expand is None:
        keys_BHSC, values_BHSC = kept_VBHSC.float()
        return keys_BHSC, values_BHSC
    latent, turned = (int(getattr(module, name)) for name in ("kv_lora_rank", "qk_rope_head_dim"))
    with torch.no_grad():
        keys_BHSC, values_BHSC = expand(kept_VBHSC[0, ..., :latent], kept_VBHSC[1, ..., :turned])
    return keys_BHSC.float(), values_BHSC.float()


def _within(window: int, scores_BHQS: Tensor, position_BN: Tensor, place_BS: Tensor) -> Tensor:
    """Return scores without those of keys that are a window or more before the token that asks."""
    far_BNS = position_BN[:, :, None] - place_BS[:, None] >= window
    groups = scores_BHQS.shape[2] // position_BN.shape[1]
    return scores_BHQS.masked_fill(far_BNS.repeat(1, groups, 1)[:, None], -torch.inf)


class _PrefixAttention:
    """Attention over shared prefixes: the questions of one prefix read its keys and values together."""

    def __init__(self, module: nn.Module, states: PromptStates, upper: int) -> None:
        both = {index: keys_and_values(module, kept[upper][:, None]) for index, kept in states.prefixes.items()}
        self.kept = {index: (keys_BHPC[0], values_BHPC[0]) for index, (keys_BHPC, values_BHPC) in both.items()}
        self.longest = max((keys_HPC.shape[1] for keys_HPC, _ in self.kept.values()), default=0)
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
        channels = next(iter(self.kept.values()))[1].shape[-1]
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
