"""Cloze questions on full prompts: the choices of a question run side by side behind its prompt, in one row."""

from typing import Any

import torch
from torch import Tensor

from moe_tune.data.batching import Batch
from moe_tune.data.packed import PackedChoices
from moe_tune.gates.gated_model import GatedModel
from moe_tune.routing import RoutingTrace


def packed_logits(gated: GatedModel, batch: Batch, choices: PackedChoices) -> Tensor:
    """Return the logits over the vocabulary at the tokens that predict those of the choices, (M, V).

    It is what a row per choice would give, at the cost of one prompt.
    """
    body: Any = gated.model.base_model
    real_BS = batch.attention_mask_BS.bool()
    place_S = torch.arange(real_BS.shape[1], device=real_BS.device)
    answer_BS = real_BS & (place_S >= batch.answer_position_B[:, None])
    with gated.session() as session:
        session.trace = RoutingTrace.of_tokens(real_BS, answer_BS, session.needs)
        hidden_BSD = body(
            input_ids=batch.input_ids_BS,
            attention_mask=choices.mask(real_BS, gated.model.dtype),
            position_ids=choices.position_BS,
            use_cache=False,
        ).last_hidden_state
    return gated.vocabulary_logits(hidden_BSD[choices.row_M, choices.place_M])
