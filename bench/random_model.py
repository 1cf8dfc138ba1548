"""A published model's sizes with random weights, filled in place: no weight exists twice, and none is downloaded."""

import itertools
from dataclasses import dataclass, field

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from bench.smoke import smoking
from moe_tune.models.base_model import BaseModel
from moe_tune.models.families import family_of
from moe_tune.models.family import ModelFamily
from moe_tune.models.packed_experts import NAME as PACKED
from moe_tune.models.packed_experts import install, packable
from moe_tune.models.packed_weight import PackedWeight
from moe_tune.models.published_shapes import OLMOE, PUBLISHED
from moe_tune.models.shrunk import shrunk_config

WORDS = 50304
"""Tokens that OLMoE's tokenizer gives, whose prompts every model gets."""
NAMES = {name.rpartition("/")[2]: name for name in PUBLISHED}
"""The published model by the name that a command line takes."""


@dataclass(frozen=True)
class RandomModel(BaseModel):
    """A model of a published one's width, with all of its experts, and random weights.

    A vocabulary that is smaller than that of OLMoE's tokenizer gets the tokenizer's size.

    Args:
        published: Whose sizes, a key of ``PUBLISHED``.
        depth: Decoder layers; ``None``: all of them.
        device: Where it is made, ``cpu`` or ``cuda``.
        held: The model, once it is made; every tuner gets the same.
    """

    published: str = OLMOE
    depth: int | None = None
    device: str = "cpu"
    held: list[PreTrainedModel] = field(default_factory=list)

    def load_config(self) -> PretrainedConfig:
        """Return the published configuration, cut to the depth."""
        shape = PUBLISHED[self.published]
        layers, words = self.depth or shape["num_hidden_layers"], max(WORDS, shape["vocab_size"])
        if smoking():
            return shrunk_config(
                shape["model_type"], vocab_size=words, width=64, layers=layers, experts=8, top_k=2, inner=32
            )
        return AutoConfig.for_model(**{**shape, "num_hidden_layers": layers, "vocab_size": words})

    def load(self) -> tuple[PreTrainedModel, ModelFamily]:
        """Return the model; its routers' logits have a standard deviation of about 1, so that routing is spread."""
        config = self.load_config()
        if not self.held:
            ways = "eager" if self.experts_implementation == "auto" else self.experts_implementation
            with torch.device("meta"):
                model = AutoModelForCausalLM.from_config(
                    config, dtype=getattr(torch, self.dtype), experts_implementation=ways
                )
            with torch.device(self.device):
                model.model.rotary_emb = type(model.model.rotary_emb)(config=config)  # its buffers are no weights
            self._fill(model)
            if self.quantise:
                model.set_experts_implementation(PACKED)
            self.held.append(model.eval())
        return self.held[0], family_of(config.model_type)

    def _fill(self, model: PreTrainedModel) -> None:
        generator = torch.Generator(self.device).manual_seed(0)
        spread = (3 / model.config.hidden_size) ** 0.5  # of a uniform distribution of variance 1 / D
        for module in list(model.modules()):
            packed = packable(module) if self.quantise else {}
            for name, empty in list(module.named_parameters(recurse=False)):
                weight = torch.empty_like(empty, device=self.device)
                if "norm" in type(module).__name__.lower():
                    weight.fill_(1.0)
                else:
                    weight.uniform_(-spread, spread, generator=generator)
                if name in packed and self.quantise:
                    install(module, name, PackedWeight(weight, self.quantise, bool(module.is_transposed)))
                else:
                    setattr(module, name, torch.nn.Parameter(weight, requires_grad=False))
        every = itertools.chain(model.named_parameters(), model.named_buffers())
        assert not (left := [name for name, one in every if one.is_meta]), f"no weights for {', '.join(left)}"
