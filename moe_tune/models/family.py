"""The contract of a model family: where its routers are and how they score."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from moe_tune.base.errors import ModelError
from moe_tune.models.gate_replay import GateReplay
from moe_tune.models.refusals import Refusals
from moe_tune.models.state_shape import StateShape
from moe_tune.routing import ScoringRule, SoftmaxRule


class ModelFamily(ABC):
    """One mixture-of-experts architecture of transformers.

    Attributes:
        model_type: The ``model_type`` of its configuration.
        gate_path: The gate's path within a decoder layer.
        experts_path: The path of the module that holds the layer's experts, beside the gate.
        gate_tensors: Names of the gate's parameters and buffers; ``logits`` and ``rule`` take all of them into account.
            ``None`` where its own code runs, which leaves nothing out.
        plain_tail: Whether the logits over the vocabulary are the output embeddings' product and nothing else.
    """

    model_type: str
    gate_path: str = "mlp.gate"
    experts_path: str = "mlp.experts"
    gate_tensors: frozenset[str] | None = frozenset({"weight"})
    plain_tail: bool = True

    @abstractmethod
    def tiny_config(self) -> PretrainedConfig:
        """Return a configuration of a few thousand parameters for tests."""

    @abstractmethod
    def small_config(self, vocab_size: int) -> PretrainedConfig:
        """Return a configuration of a few million parameters for random-weight models."""

    def moe_layers(self, model: PreTrainedModel) -> dict[int, nn.Module]:
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

    def answer_path_refusal(self, config: PretrainedConfig) -> str | None:
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

    def side_by_side_refusal(self, config: PretrainedConfig) -> str | None:
        """Return why the choices of a cloze question cannot run side by side after one prompt, or ``None``."""
        return self.answer_path_refusal(config)

    def trunk_refusal(self, config: PretrainedConfig) -> str | None:
        """Return why the layers of this model cannot run from the middle on by its body's own code, or ``None``."""
        return None

    def refusals(self, config: PretrainedConfig) -> Refusals:
        """Return which cheaper ways of answering the model does not allow."""
        return Refusals(self.answer_path_refusal(config), self.side_by_side_refusal(config), self.trunk_refusal(config))

    def state_shape(
        self, config: PretrainedConfig, first_layer: int, lower_routers: tuple[int, ...], dtype: torch.dtype
    ) -> StateShape:
        """Return the sizes of what the answer path keeps per prompt."""
        heads = config.num_attention_heads or 1  # where attention is of another kind, nothing can be kept
        return StateShape(
            first_layer=first_layer,
            layers=config.num_hidden_layers,
            lower_routers=lower_routers,
            width=config.hidden_size,
            key_value_heads=config.num_key_value_heads or heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
            dtype=dtype,
        )

    def replay(self, block: nn.Module, layer: int) -> GateReplay:
        """Return the stock gate of a layer, to be asked what it decides.

        Args:
            block: A decoder layer that holds a router.
            layer: Its index, for messages.
        """
        owner = block.get_submodule(self.gate_path.rpartition(".")[0])
        return GateReplay(block.get_submodule(self.gate_path), owner, block.get_submodule(self.experts_path), layer)

    def rule(self, replay: GateReplay) -> ScoringRule:
        """Return the scoring rule of a stock gate."""
        gate = replay.gate
        return SoftmaxRule(int(gate.top_k), int(gate.num_experts), bool(gate.norm_topk_prob))  # type: ignore[arg-type]

    def logits(self, gate: nn.Module, hidden_TD: Tensor) -> Tensor:
        """Return the router's logits, (T, E), in the dtype of the hidden states.

        Args:
            gate: The stock gate or the one in its place; both have all of its tensors, and an adapter may change those
                of the latter.
            hidden_TD: The router's input.
        """
        weight: Tensor = gate.weight  # type: ignore[assignment]  # no parameter where an adapter stands over it
        return functional.linear(hidden_TD, weight.to(hidden_TD.dtype))

    def project(
        self, replay: GateReplay, gate: nn.Module, forward: Callable[..., Any], hidden_TD: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the router's logits (T, E) and what its projection reads (T, D).

        Args:
            replay: The layer's stock gate.
            gate: The stock gate or the one in its place.
            forward: The stock class's forward, bound to ``gate``.
            hidden_TD: The router's input.
        """
        return self.logits(gate, hidden_TD), hidden_TD


def small_sizes(vocabulary: int, width: int, layers: int, experts: int, top_k: int) -> dict[str, Any]:
    """Return what the configurations of small models have in common, whatever the family."""
    return {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "num_experts": experts,
        "num_experts_per_tok": top_k,
        "max_position_embeddings": 4096,
        **dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id")),
    }
