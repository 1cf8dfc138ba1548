"""The one-token forward: the upper layers of a model, run on answer tokens over kept keys and values."""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from moe_tune.answer_path import attention
from moe_tune.answer_path.states import PromptStates
from moe_tune.base.replaced import replaced
from moe_tune.data.batching import Batch
from moe_tune.data.packed import PackedChoices
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.state_shape import StateShape
from moe_tune.routing import RoutingTrace


def answer_logits(
    gated: GatedModel, shape: StateShape, states: PromptStates, words: Sequence[int] | None = None
) -> Tensor:
    """Return the logits over the vocabulary, or of some words of it, at the answer position of a batch, (B x N, V).

    It leaves the same trace behind as a forward call over the whole prompts would, restricted to the answer position.
    N is the number of heads that act side by side, or 1; the rows of a question are neighbours.
    """
    heads = gated.heads_per_answer
    gated.open_answers(len(states.answer_BXD), states.answer_BXD.device)
    with torch.no_grad():
        for place, layer in enumerate(shape.lower_routers, start=1):
            gated.gates[layer](states.answer_BXD[:, place].repeat_interleave(heads, dim=0))
    hidden_BND = states.answer_BXD[:, :1].expand(-1, heads, -1)
    hidden_BND = _upper_layers(gated, shape, hidden_BND, states.position_B[:, None].expand(-1, heads), states)
    return gated.vocabulary_logits(hidden_BND.flatten(0, 1), words)


def logits_from(
    gated: GatedModel,
    shape: StateShape,
    states: PromptStates,
    layer: int,
    hidden_BD: Tensor,
    words: Sequence[int] | None = None,
) -> Tensor:
    """Return what ``answer_logits`` does where what enters a layer is known: those below neither run nor leave a trace.

    Args:
        gated: The model.
        shape: What is kept of the prompts; it begins with that layer or a lower one.
        states: What is kept of a batch.
        layer: The layer.
        hidden_BD: What enters it at each answer token, the same for all heads that act side by side.
        words: Token ids that are asked for; ``None`` are all.
    """
    heads = gated.heads_per_answer
    gated.open_answers(len(hidden_BD), hidden_BD.device)
    hidden_BND = hidden_BD[:, None].expand(-1, heads, -1)
    position_BN = states.position_B[:, None].expand(-1, heads)
    hidden_BND = _upper_layers(gated, shape, hidden_BND, position_BN, states, start=layer)
    return gated.vocabulary_logits(hidden_BND.flatten(0, 1), words)


def choice_logits(
    gated: GatedModel, shape: StateShape, states: PromptStates, batch: Batch, choices: PackedChoices
) -> Tensor:
    """Return the logits over the vocabulary at the tokens that predict those of the choices of a batch, (M x N, V).

    As ``answer_logits``, but each cloze question has several answer tokens; the heads of one are neighbours.
    """
    heads = gated.heads_per_answer
    answers = choices.answers(batch.attention_mask_BS, batch.answer_position_B)
    read_BWXD = states.answer_BXD.repeat_interleave(heads, dim=1)
    real_BN, position_BN = (one.repeat_interleave(heads, dim=1) for one in (answers.real_BW, answers.position_BW))
    one_NN = torch.eye(heads, dtype=torch.bool, device=real_BN.device)
    seen_BNN = torch.kron(answers.seen_BWW, one_NN)
    with gated.session() as session:
        session.trace = RoutingTrace.of_tokens(real_BN, real_BN, session.needs, answer_only=True)
    with torch.no_grad():
        for place, layer in enumerate(shape.lower_routers, start=1):
            gated.gates[layer](read_BWXD[:, :, place])
    hidden_BND = _upper_layers(gated, shape, read_BWXD[:, :, 0], position_BN, states, seen_BNN)
    hidden_MND = hidden_BND.unflatten(1, (-1, heads))[choices.row_M, answers.place_M]
    return gated.vocabulary_logits(hidden_MND.flatten(0, 1))


def _upper_layers(
    gated: GatedModel,
    shape: StateShape,
    hidden_BND: Tensor,
    position_BN: Tensor,
    states: PromptStates,
    seen_BNN: Tensor | None = None,
    start: int = 0,
) -> Tensor:
    """Run answer tokens through the upper layers, from ``start`` on, and the last norm; this closes the trace."""
    model: Any = gated.model
    rotary = rotary_embeddings(model, hidden_BND, position_BN)
    read = {"prompt_states": states, "first_layer": shape.first_layer, "seen_BNN": seen_BNN, "position_BN": position_BN}
    try:
        with replaced(model.config, _attn_implementation=attention.NAME):
            for index, layer in enumerate(model.base_model.layers[: shape.layers]):
                if index >= max(shape.first_layer, start):
                    where = {"position_ids": position_BN, "position_embeddings": rotary[index]}
                    hidden_BND = layer(hidden_BND, attention_mask=None, **where, **read)
    finally:
        gated.trace.is_open = False
    normed_BND: Tensor = model.base_model.norm(hidden_BND)
    return normed_BND


def rotary_embeddings(model: Any, hidden_BND: Tensor, position_BN: Tensor) -> list[Any]:
    """Return what each layer of a model turns queries and keys by; some models have another for each kind of layer."""
    body = model.base_model
    if "layer_type" not in inspect.signature(body.rotary_emb.forward).parameters:
        return [body.rotary_emb(hidden_BND, position_BN)] * len(body.layers)
    kinds = body.config.layer_types
    known = {
        kind: None if body.config.rope_parameters[kind] is None else body.rotary_emb(hidden_BND, position_BN, kind)
        for kind in set(kinds)
    }
    return [known[kind] for kind in kinds]
