"""Logits over the vocabulary by a model's own code, which in some families scales or caps them."""

from typing import Any

from torch import Tensor
from transformers import PreTrainedModel
from transformers.modeling_outputs import MoeModelOutputWithPast


def logits_by_own_code(model: PreTrainedModel, hidden_ND: Tensor) -> Tensor:
    """Return the logits (N, V) that a model makes of what its body returns (N, D): its body is answered for.

    Args:
        model: A causal language model of transformers.
        hidden_ND: What its body returns.
    """
    body: Any = model.base_model
    body.forward = lambda *_, **__: _BodyOutput(last_hidden_state=hidden_ND[None])
    try:
        logits_NV: Tensor = model(inputs_embeds=hidden_ND[None], use_cache=False).logits[0]
    finally:
        del body.forward
    return logits_NV


class _BodyOutput(MoeModelOutputWithPast):
    """What a model's body returns, without what only some of them do."""

    def __getattr__(self, name: str) -> None:
        if name.startswith("__"):
            raise AttributeError(name)
