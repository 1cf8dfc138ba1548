"""The stock gates of any model that is served, and what is needed to read what they return."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.gates.tuned_gate import TunedGate
from moe_tune.models.families import family_of
from moe_tune.models.family import ModelFamily
from moe_tune.models.gate_replay import GateReplay
from moe_tune.routing import ScoringRule

ADAPTED = "base_layer"
"""Where PEFT keeps the layer that it has put an adapter over."""


@dataclass(frozen=True, slots=True)
class ReadGate:
    """A layer's gate as it stands in the model.

    Args:
        layer: Index of the layer in the model.
        gate: What the layer calls: the stock gate, or an adapter over it.
        replay: The stock gate, to be asked which of its outputs are what.
        rule: Its scoring rule.
        experts: The experts beside it.
        one_input: Whether the experts read what the gate reads.
        projection: The module whose output are the logits; ``None`` where the gate returns them first.
    """

    layer: int
    gate: nn.Module
    replay: GateReplay
    rule: ScoringRule
    experts: nn.Module
    one_input: bool
    projection: nn.Module | None

    @property
    def adapted(self) -> bool:
        """Whether an adapter changes the gate."""
        return any(name.endswith(ADAPTED) for name, _ in self.gate.named_modules())


def inner_model(model: nn.Module) -> PreTrainedModel:
    """Return the model of transformers within DDP, PEFT, a compiled model or a LightningModule.

    Raises:
        ConfigError: There is none.
    """
    for module in model.modules():
        if isinstance(module, PreTrainedModel):
            return module
    raise ConfigError(
        f"expected a model of transformers, or a module that holds one, but got {type(model).__name__} (model). "
        "Hint: AutoModelForCausalLM.from_pretrained."
    )


def read_gates(model: PreTrainedModel) -> list[ReadGate]:
    """Return the gates of a model, in layer order.

    Raises:
        ConfigError: The model is of a type that is not served, holds router heads, or hides its routers' logits.
    """
    try:
        family = family_of(str(model.config.model_type))
        gates = [_read(family, block, layer) for layer, block in sorted(family.moe_layers(model).items())]
    except ModelError as fault:
        raise ConfigError(f"expected a model whose routers can be read: {fault}") from fault
    sizes = sorted({(one.rule.num_experts, one.rule.top_k) for one in gates})
    if len(sizes) > 1:
        raise ConfigError(
            f"expected as many experts, and experts per token, in every layer but got (E, K) = {sizes} (model)."
        )
    return gates


def _read(family: ModelFamily, block: nn.Module, layer: int) -> ReadGate:
    gate, experts = block.get_submodule(family.gate_path), block.get_submodule(family.experts_path)
    if isinstance(gate, TunedGate):
        raise ConfigError(
            f"expected stock gates but layer {layer} has a router head (model). Hint: the trace of its GatedModel "
            "says what it does; or GatedModel.detach()."
        )
    stock = gate
    while isinstance(inner := getattr(stock, ADAPTED, None), nn.Module):
        stock = inner
    owner = block.get_submodule(family.gate_path.rpartition(".")[0])
    training = stock.training
    stock.eval()  # in training some gates add noise: asked now, they would draw what a step is to draw
    try:
        replay = GateReplay(stock, owner, experts, layer)
        rule = family.rule(replay)
    finally:
        stock.train(training)
    projection = None if replay.returns_logits else _projection(gate, replay)
    return ReadGate(layer, gate, replay, rule, experts, "." in family.gate_path, projection)


def _projection(gate: nn.Module, replay: GateReplay) -> nn.Module:
    """Return the module that computes the logits, with the adapter over it."""
    name = replay.weight_name.rpartition(".")[0].partition(f".{ADAPTED}")[0]
    if not name:
        raise ConfigError(
            f"expected a router whose logits are to be seen but {type(replay.gate).__name__} neither returns them nor "
            f"computes them in a part of its own (layer {replay.layer})."
        )
    return gate.get_submodule(name)
