"""Gradient checkpointing: the layers of a model keep their input alone and compute the rest again for the gradient."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from transformers import PreTrainedModel

from moe_tune.base.errors import ConfigError


def allow_recomputation(model: PreTrainedModel) -> None:
    """Prepare the decoder layers of a model; they are checkpointed only inside ``recomputed``.

    Raises:
        ConfigError: The model's layers cannot be checkpointed.

    Reference:
        Chen et al. 2016, "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174
    """
    layers: Any = model.base_model.layers
    if not model.supports_gradient_checkpointing or not all(hasattr(one, "gradient_checkpointing") for one in layers):
        raise ConfigError(
            f"expected a model whose layers can be computed again but got {type(model).__name__} "
            "(model.base.gradient_checkpointing). Hint: false, and a smaller --data.batch_size with "
            "--trainer.accumulate_grad_batches."
        )
    # Non-reentrant: frozen inputs are fine, and what a loss reads beside the layer's output keeps its gradient.
    model.activation_checkpointing_enable({"use_reentrant": False})
    # transformers also lets the embeddings ask for a gradient, which would go down through every frozen layer.
    model.disable_input_require_grads()


@contextmanager
def recomputed(model: PreTrainedModel) -> Iterator[None]:
    """Checkpoint the prepared layers that run while the context lasts; the backward pass may come later."""
    layers: Any = model.base_model.layers
    # transformers asks each layer for its mode; those of attention and experts, where dropout is, stay as they are.
    for layer in layers:
        layer.training = True
    try:
        yield
    finally:
        for layer in layers:
            layer.training = False
