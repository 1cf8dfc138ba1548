"""The sizes of a model, counted from its configuration without its weights."""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from moe_tune.models.adapter import Adapter
from moe_tune.models.base_model import BaseModel
from moe_tune.models.families import family_of
from moe_tune.models.packed_experts import pack_experts
from moe_tune.models.published_shapes import PUBLISHED
from moe_tune.models.refusals import Refusals
from moe_tune.routing import ScoringRule


@dataclass(frozen=True, slots=True)
class ModelShape:
    """How large the parts of a model are.

    Args:
        total: Parameters.
        dense_L: Parameters of each decoder layer outside its experts.
        expert_L: Parameters of one expert of each layer; 0 where it has none.
        rule: The scoring rule, with E and K.
        width: Width of the hidden state, D.
        inner: Width within an expert, I.
        key_value_heads: Heads of keys and values, H.
        head_dim: Width of a key or value, C.
        vocabulary: Tokens of the vocabulary, V.
        context: Most tokens of a prompt.
        refusals: Which ways of answering its family does not allow.
        published: Whether the shape is one of ``PUBLISHED``.
    """

    total: int
    dense_L: tuple[int, ...]
    expert_L: tuple[int, ...]
    rule: ScoringRule
    width: int
    inner: int
    key_value_heads: int
    head_dim: int
    vocabulary: int
    context: int
    refusals: Refusals
    published: bool

    @property
    def active(self) -> int:
        """Parameters one token uses, embeddings included."""
        return self.total - (self.rule.num_experts - self.rule.top_k) * sum(self.expert_L)

    @property
    def moe_layers(self) -> list[int]:
        """The layers that hold a router."""
        return [layer for layer, size in enumerate(self.expert_L) if size]


def model_shape(base: BaseModel) -> ModelShape:
    """Return the sizes of a base model; no weights are read or downloaded.

    Raises:
        ServiceError: The configuration is on the Hub, which cannot be reached, and the model is none of ``PUBLISHED``.
    """
    published = _published(base)
    return shape_of(published or base.load_config(), published=published is not None)


def adapter_parameters(base: BaseModel, options: dict[str, Any]) -> int:
    """Return how many parameters a LoRA in a base model trains; no weights are read or downloaded.

    Raises:
        ConfigError: PEFT knows no such option, refuses a value, or finds no such module or parameter; or the experts
            it names are quantised.
    """
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(_published(base) or base.load_config()).requires_grad_(False)
        if base.quantise:
            pack_experts(model, base.quantise)
        adapter = Adapter(model, options)
    return sum(one.numel() for one in adapter.parameters.values())


def _published(base: BaseModel) -> PretrainedConfig | None:
    for name, shape in PUBLISHED.items():
        if base.path == name or base.path.startswith(f"{name}-"):
            return AutoConfig.for_model(**shape)
    return None


def shape_of(config: PretrainedConfig, published: bool = False) -> ModelShape:
    """Return the sizes of the model a configuration describes."""
    family = family_of(config.model_type)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    blocks = family.moe_layers(model)
    first = next(iter(blocks.values()))
    rule = family.rule(family.replay(first, next(iter(blocks))))
    dense, expert = [], []
    for layer, block in enumerate(model.base_model.layers):
        every = sum(one.numel() for one in block.parameters())
        within = 0
        if layer in blocks:
            within = sum(one.numel() for one in block.get_submodule(family.experts_path).parameters())
        dense.append(every - within)
        expert.append(within // rule.num_experts)
    states = family.state_shape(config, 0, (), torch.float32)
    return ModelShape(
        sum(one.numel() for one in model.parameters()),
        tuple(dense),
        tuple(expert),
        rule,
        config.hidden_size,
        first.get_submodule(family.experts_path).get_parameter("down_proj")[0].numel() // config.hidden_size,
        states.key_value_heads,
        states.head_dim,
        config.vocab_size,
        config.max_position_embeddings,
        family.refusals(config),
        published,
    )
