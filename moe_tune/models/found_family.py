"""A family that is found by looking: any causal language model with fused experts and a gate beside them."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from moe_tune.base.errors import ModelError
from moe_tune.models.family import ModelFamily
from moe_tune.models.found_rule import found_rule
from moe_tune.models.gate_replay import GateReplay, names_beside
from moe_tune.models.packed_weight import fused_weights
from moe_tune.models.shrunk import shrunk_config
from moe_tune.models.state_shape import StateShape
from moe_tune.routing import ScoringRule

GATES = ("gate", "router", "moe_gate")
"""What families call the module that returns logits, weights and indices."""

SEEN_WHOLE = frozenset({"full_attention", "sliding_attention"})
"""Kinds of layers whose keys and values can be kept."""
INDEXED = "attention to tokens that an index of its own chooses"
LINEAR = "layers of linear attention, which keep no keys"
OTHER_WAYS = {
    "axk2": INDEXED,
    "bailing_hybrid": LINEAR,
    "beam": "attention scaled by position",
    "deepseek_v32": INDEXED,
    "deepseek_v4": INDEXED,
    "dots3_note_text": INDEXED,
    "glm_moe_dsa": INDEXED,
    "granitemoehybrid": LINEAR,
    "hy_v4": INDEXED,
    "inkling2_text": "attention that also convolves",
    "jamba": LINEAR,
    "kimi_linear": LINEAR,
    "lfm2_moe": "layers of convolution, which keep no keys",
    "mimo_v2_flash": "keys that differ from layer to layer",
    "minimax": "a cache of its own",
    "nemotron_h": LINEAR,
    "qwen3_5_moe_text": LINEAR,
    "qwen3_next": LINEAR,
    "qwen4_exp_text": LINEAR,
}
"""Why prompts of some types cannot be kept as keys and values."""
UNTOLD = frozenset({"phimoe", "qwen2_moe"})
"""Types whose window is in the mask alone."""
OF_LAYERS = ("per_layer_config", "hidden_size_per_layer_input", "num_kv_shared_layers")
"""Fields of configurations whose layers are not alike."""


class FoundFamily(ModelFamily):
    """A family without a file: its parts are found in the model, and its gate's own code decides.

    Args:
        model_type: The ``model_type`` of its configuration.
    """

    gate_tensors = None
    plain_tail = False

    def __init__(self, model_type: str) -> None:
        self.model_type = model_type
        self.places: dict[int, tuple[str, str]] = {}
        """Where gate and experts are in each layer that has both, once a model has been looked at."""

    def tiny_config(self) -> PretrainedConfig:
        # Of 32 experts: processors compute what is left over by 32 numbers in another way, so that the last bit of a
        # sigmoid may depend on how many tokens there are.
        return shrunk_config(self.model_type, vocab_size=64, width=16, layers=3, experts=32, top_k=4, inner=8)

    def small_config(self, vocab_size: int) -> PretrainedConfig:
        return shrunk_config(self.model_type, vocab_size=vocab_size, width=64, layers=4, experts=64, top_k=8, inner=32)

    def moe_layers(self, model: PreTrainedModel) -> dict[int, nn.Module]:
        if not self.places:
            self.places = _places(model)
            self.gate_path, self.experts_path = next(iter(self.places.values()))
        layers: Any = model.base_model.layers
        return {index: layers[index] for index in self.places}

    def rule(self, replay: GateReplay) -> ScoringRule:
        return found_rule(replay)

    def project(
        self, replay: GateReplay, gate: nn.Module, forward: Callable[..., Any], hidden_TD: Tensor
    ) -> tuple[Tensor, Tensor]:
        return replay.project(gate, forward, hidden_TD)

    def answer_path_refusal(self, config: PretrainedConfig) -> str | None:
        if self.model_type in OTHER_WAYS:
            return OTHER_WAYS[self.model_type]
        of_layers = set(getattr(config, "layer_types", None) or ())
        window = getattr(config, "sliding_window", None)
        windows = window and (not of_layers or "sliding_attention" in of_layers)
        if self.model_type in UNTOLD and windows and window < config.max_position_embeddings:
            return "a window that its attention is not told of"
        known = config.to_dict()
        if any(known.get(name) for name in OF_LAYERS):
            return "keys or inputs that differ from layer to layer"
        kinds = of_layers - SEEN_WHOLE
        return f"layers of {', '.join(sorted(kinds)).replace('_', ' ')}" if kinds else None

    def side_by_side_refusal(self, config: PretrainedConfig) -> str | None:
        if getattr(config, "sliding_window", None):
            return "attention within a window"
        return self.answer_path_refusal(config)

    def trunk_refusal(self, config: PretrainedConfig) -> str | None:
        return f"a model of type {self.model_type}, whose body may treat what enters its first layer in its own way"

    def state_shape(
        self, config: PretrainedConfig, first_layer: int, lower_routers: tuple[int, ...], dtype: torch.dtype
    ) -> StateShape:
        if self.answer_path_refusal(config):  # nothing is kept, and there may be no one size
            return StateShape(first_layer, config.num_hidden_layers, lower_routers, config.hidden_size, 1, 1, dtype)
        shape = super().state_shape(config, first_layer, lower_routers, dtype)
        latent = getattr(config, "kv_lora_rank", None)
        if not latent:
            return shape
        return replace(shape, key_value_heads=1, head_dim=max(latent, config.qk_rope_head_dim))


def _places(model: PreTrainedModel) -> dict[int, tuple[str, str]]:
    """Return where the gate and the experts of every MoE layer are, within the decoder layer: the same in all."""
    layers: Any = getattr(model.base_model, "layers", [])
    places = {index: place for index, layer in enumerate(layers) if (place := _place(layer)) is not None}
    if len(set(places.values())) > 1:
        raise ModelError(f"expected gates and experts at one place in all layers but got {sorted(places.items())}.")
    if places:
        return places
    near = sorted(
        {
            f"{name} ({type(one).__name__})"
            for layer in layers
            for name, one in layer.named_modules()
            if any(word in name.rpartition(".")[2] for word in ("expert", "gate", "router", "moe"))
        }
    )
    raise ModelError(
        f"expected decoder layers (base_model.layers) that hold experts as one module of 3-D weights, and beside it a "
        f"{', '.join(GATES)} with a weight of one row per expert, but found neither in {type(model).__name__}. "
        + (f"Nearest: {', '.join(near[:6])}. " if near else "")
        + "Hint: python -m moe_tune list families."
    )


def _place(layer: nn.Module) -> tuple[str, str] | None:
    """Return the paths of a layer's gate and experts, if it has both."""
    for path, experts in layer.named_modules():
        fused = fused_weights(experts, recurse=False)
        owner_path, _, name = path.rpartition(".")
        if not fused or not name:
            continue
        owner, before = layer.get_submodule(owner_path), f"{owner_path}." if owner_path else ""
        for gate_name in GATES:
            gate = getattr(owner, gate_name, None)
            if isinstance(gate, nn.Module) and any(len(one) == len(fused[0]) for one in gate.parameters()):
                if names_beside(gate, owner)[1]:
                    continue  # it chooses by something else, such as the token's number: there is nothing to change
                return f"{before}{gate_name}", path
    return None
