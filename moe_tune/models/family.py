"""The contract of a model family: where its routers are and how they score."""

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

import torch
from torch import nn

from moe_tune.base.errors import ModelError, did_you_mean
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.models.state_shape import StateShape
from moe_tune.routing import ScoringRule

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel


class ModelFamily(ABC):
    """One mixture-of-experts architecture of transformers.

    Attributes:
        model_type: The ``model_type`` of its configuration.
        gate_path: The gate's path within a decoder layer.
        experts_path: The path of the module that holds the layer's experts, beside the gate.
    """

    model_type: str
    gate_path: str = "mlp.gate"
    experts_path: str = "mlp.experts"

    @abstractmethod
    def tiny_config(self) -> "PretrainedConfig":
        """Return a configuration of a few thousand parameters for tests."""

    @abstractmethod
    def small_config(self, vocab_size: int) -> "PretrainedConfig":
        """Return a configuration of a few million parameters for random-weight models."""

    def moe_layers(self, model: "PreTrainedModel") -> dict[int, nn.Module]:
        """Return the decoder layers that hold a router, by layer index."""
        found: dict[int, nn.Module] = {}
        for index, layer in enumerate(model.base_model.layers):
            parent, _, name = self.gate_path.rpartition(".")
            owner = layer.get_submodule(parent)
            if hasattr(owner, name):
                found[index] = layer
        if not found:
            raise ModelError(f"expected routers at {self.gate_path!r} but found none ({type(model).__name__}).")
        return found

    def answer_path_refusal(self, config: "PretrainedConfig") -> str | None:
        """Return why prompts of this model cannot be kept as plain keys and values, or ``None`` where they can.

        The answer path calls the decoder layers itself, on one token: attention must be over all earlier keys, scaled
        dot products and nothing else, and the layers must take ``position_embeddings``.

        Args:
            config: The model's configuration.
        """
        if any(kind != "full_attention" for kind in getattr(config, "layer_types", None) or ()):
            return "attention other than full"
        if getattr(config, "use_sliding_window", False) and getattr(config, "sliding_window", None):
            return "sliding-window attention"
        return None

    def state_shape(
        self, config: "PretrainedConfig", first_layer: int, lower_routers: tuple[int, ...], dtype: torch.dtype
    ) -> StateShape:
        """Return the sizes of what the answer path keeps per prompt."""
        heads = config.num_attention_heads
        return StateShape(
            first_layer=first_layer,
            layers=config.num_hidden_layers,
            lower_routers=lower_routers,
            width=config.hidden_size,
            key_value_heads=config.num_key_value_heads or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=dtype,
        )

    def rule(self, gate: nn.Module) -> ScoringRule:
        """Return the scoring rule of a stock gate."""
        return ScoringRule(int(gate.top_k), int(gate.num_experts), bool(gate.norm_topk_prob))  # type: ignore[arg-type]


def family_of(model_type: str) -> ModelFamily:
    """Return the family of a configuration's ``model_type``.

    Raises:
        ModelError: No family file covers it.
    """
    families = {family.model_type: family for family in concrete_subclasses(ModelFamily).values()}
    if model_type not in families:
        raise ModelError(
            f"expected a model family with a family file but got {model_type!r} (model.base.path). "
            f"Hint: {did_you_mean(model_type, families)}"
        )
    return families[model_type]()
