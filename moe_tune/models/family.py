"""The contract of a model family: where its routers are and how they score."""

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import PretrainedConfig, PreTrainedModel

from moe_tune.base.errors import ModelError, did_you_mean
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.heads.base import decide
from moe_tune.models.state_shape import StateShape
from moe_tune.routing import ScoringRule, SoftmaxRule

PROOF_TOKENS = 16
"""Random hidden states on which a router has to decide as its family says."""


class ModelFamily(ABC):
    """One mixture-of-experts architecture of transformers.

    Attributes:
        model_type: The ``model_type`` of its configuration.
        gate_path: The gate's path within a decoder layer.
        experts_path: The path of the module that holds the layer's experts, beside the gate.
        gate_tensors: Names of the gate's parameters and buffers; ``logits`` and ``rule`` take all of them into account.
    """

    model_type: str
    gate_path: str = "mlp.gate"
    experts_path: str = "mlp.experts"
    gate_tensors: frozenset[str] = frozenset({"weight"})

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

    def state_shape(
        self, config: PretrainedConfig, first_layer: int, lower_routers: tuple[int, ...], dtype: torch.dtype
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

    @torch.no_grad()
    def prove(self, block: nn.Module, layer: int) -> None:
        """Refuse a layer whose router has more to it than the family says, or decides otherwise on random input.

        Args:
            block: A decoder layer that holds a router.
            layer: Its index, for messages.

        Raises:
            ModelError: The router, or its block, has a tensor that the family does not claim, or it decides otherwise.
        """
        gate = block.get_submodule(self.gate_path)
        owner = self.gate_path.rpartition(".")[0]
        beside = [*block.get_submodule(owner).named_parameters(owner), *block.get_submodule(owner).named_buffers(owner)]
        tensors = {name for name, _ in beside if not name.startswith(f"{self.experts_path}.")}
        claimed = {f"{self.gate_path}.{name}" for name in self.gate_tensors}
        if tensors != claimed:
            raise ModelError(
                f"expected a router with the tensors {sorted(claimed)} but got {sorted(tensors)} (layer {layer}, "
                f"{type(gate).__name__}): {type(self).__name__} would leave out what it does not know. "
                "Hint: a family file with these gate_tensors, and logits and a rule that use them."
            )
        weight = gate.get_parameter("weight")
        if weight.is_meta:
            return
        draw = torch.Generator().manual_seed(layer)
        # Lightning loads models under the GPU's default device, where a CPU generator is refused.
        hidden_TD = torch.randn(PROOF_TOKENS, weight.shape[1], generator=draw, device="cpu").to(weight)
        with torch.autocast(weight.device.type, enabled=False):
            logits_TE, weights_TK, experts_TK = gate.forward(hidden_TD)  # not by a call, which others may be hooked to
            came = decide(None, self.rule(gate), hidden_TD, self.logits(gate, hidden_TD), stock_ties=True)
        if not (
            torch.equal(came.logits_TE, logits_TE)
            and torch.equal(came.experts_TK, experts_TK)
            and torch.equal(came.weights_TK.to(weights_TK.dtype), weights_TK)
        ):
            raise ModelError(
                f"expected a router that decides as {type(self).__name__} says but that of layer {layer} "
                f"({type(gate).__name__}) does not. Hint: this release of transformers computes it in another way."
            )


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
