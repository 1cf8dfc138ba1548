"""The one-token forward: the upper layers of a model, run on answer tokens over kept keys and values."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.answer_path import attention
from moe_tune.answer_path.states import PromptStates
from moe_tune.base.replaced import replaced
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.state_shape import StateShape


def answer_logits(gated: GatedModel, shape: StateShape, states: PromptStates) -> Tensor:
    """Return the logits over the vocabulary at the answer position of a batch, (B x N, V).

    It leaves the same trace behind as a forward call over the whole prompts would, restricted to the answer position.
    N is the number of heads that act side by side, or 1; the rows of a question are neighbours.
    """
    model: Any = gated.model
    heads = gated.heads_per_answer
    trace = gated.open_answers(len(states.answer_BXD), states.answer_BXD.device)
    with torch.no_grad():
        for place, layer in enumerate(shape.lower_routers, start=1):
            gated.gates[layer](states.answer_BXD[:, place].repeat_interleave(heads, dim=0))
    hidden_BND = states.answer_BXD[:, :1].expand(-1, heads, -1)
    position_BN = states.position_B[:, None].expand(-1, heads)
    where = {"position_ids": position_BN, "position_embeddings": model.base_model.rotary_emb(hidden_BND, position_BN)}
    read = {"prompt_states": states, "first_layer": shape.first_layer}
    try:
        with replaced(model.config, _attn_implementation=attention.NAME):
            for layer in model.base_model.layers[shape.first_layer : shape.layers]:
                hidden_BND = layer(hidden_BND, attention_mask=None, **where, **read)
    finally:
        trace.is_open = False
    logits: Tensor = model.get_output_embeddings()(model.base_model.norm(hidden_BND).flatten(0, 1))
    return logits
