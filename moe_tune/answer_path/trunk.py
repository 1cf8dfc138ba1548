"""The trunk cache: hidden states of all tokens that enter the first tuned layer, so that epochs skip what is below."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from moe_tune.answer_path.prefixes import SharedPrefixes
from moe_tune.answer_path.states import PromptStates
from moe_tune.answer_path.store import StorePlan
from moe_tune.base.replaced import replaced
from moe_tune.data.source_items import Tokens
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.state_shape import StateShape


def trunk_shape(shape: StateShape) -> StateShape:
    """Return the sizes of a trunk cache: per token one hidden state, kept as if it were one layer's key and value."""
    return StateShape(shape.layers - 1, shape.layers, (), shape.width, 1, shape.width // 2, shape.dtype)


def trunk_plan(shape: StateShape, rows: Sequence[Tokens]) -> StorePlan:
    """Return the sizes of the trunk cache of rows of tokens, from the shape of their prompt states."""
    lengths_Q = torch.tensor([len(one.ids_S) for one in rows])
    none = torch.full_like(lengths_Q, -1)
    return StorePlan(trunk_shape(shape), lengths_Q, none, torch.zeros(0, dtype=torch.long), lengths_Q - 1)


class TrunkPass:
    """Computes the hidden states that enter a layer, for all tokens; the layers below it have no heads.

    Args:
        gated: A model with heads on it.
        first_layer: The layer.
        prompts: The prompts of a split.
        pad_id: The token that fills shorter prompts.
    """

    def __init__(self, gated: GatedModel, first_layer: int, prompts: Sequence[Tokens], pad_id: int) -> None:
        self.gated, self.first_layer, self.prompts, self.pad_id = gated, first_layer, prompts, pad_id
        self.prefixes = SharedPrefixes([], [-1] * len(prompts))
        self.device = gated.device

    @torch.no_grad()
    def batch(self, question_B: Sequence[int]) -> PromptStates:
        """Return the states of questions."""
        rows = [self.prompts[index].ids_S.long() for index in question_B]
        length_B = torch.tensor([len(row) for row in rows])
        ids_BS = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=self.pad_id)
        mask_BS = (torch.arange(ids_BS.shape[1]) < length_B[:, None]).long()
        body: Any = self.gated.model.base_model
        with replaced(body, layers=body.layers[: self.first_layer], norm=nn.Identity()):
            hidden_BSD = body(
                input_ids=ids_BS.to(self.device), attention_mask=mask_BS.to(self.device), use_cache=False
            ).last_hidden_state
        halves = torch.stack(hidden_BSD.chunk(2, dim=-1))[None, :, :, None]
        answer_BXD = hidden_BSD[torch.arange(len(rows)), length_B - 1][:, None]
        return PromptStates(answer_BXD, halves, length_B, torch.full_like(length_B, -1), {}, length_B - 1)


def trunk_hidden(gated: GatedModel, first_layer: int, states: PromptStates, attention_mask_BS: Tensor) -> Tensor:
    """Return the last hidden states (B, S, D) of a batch of whole prompts, from a layer on."""
    keys, values = states.own_UVBHSC[0, :, :, 0]
    return hidden_from(gated, first_layer, torch.cat([keys, values], dim=-1), attention_mask_BS)


def hidden_from(gated: GatedModel, layer: int, hidden_BSD: Tensor, attention_mask_BS: Tensor) -> Tensor:
    """Return the last hidden states (B, S, D) of a batch of whole prompts, from what enters a layer."""
    body: Any = gated.model.base_model
    with replaced(body, layers=body.layers[layer:]):
        last_BSD: Tensor = body(
            inputs_embeds=hidden_BSD, attention_mask=attention_mask_BS, use_cache=False
        ).last_hidden_state
    return last_BSD
