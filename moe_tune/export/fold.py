"""Heads folded into the tensors of stock gates, and the proof that these decide alike."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.base.replaced import replaced
from moe_tune.gates.gated_model import GatedModel
from moe_tune.gates.tuned_gate import TunedGate
from moe_tune.heads.base import RouterHead, decide
from moe_tune.models.family import ModelFamily
from moe_tune.models.packed_weight import PackedWeight
from moe_tune.routing import Decision, ScoringRule, StockRouter

PROOF_TOKENS = 256
"""Random hidden states on which the folded gate has to decide as gate and head do."""
ALIKE = 1e-5
"""How far their weights may lie apart."""
TIE = 1e-4
"""A token whose choice noise of this size on the logits changes is no witness: rounding decides it."""


@dataclass(frozen=True, slots=True, eq=False)
class FoldedGates:
    """What a folded checkpoint has in place of the base model's tensors.

    Args:
        new: The folded tensors by their name in the model, in its dtypes.
        before: The base model's, by the same names.
        layers: The layers that had a head.
    """

    new: dict[str, Tensor]
    before: dict[str, Tensor]
    layers: list[int]


@torch.no_grad()
def folded_gates(gated: GatedModel) -> FoldedGates:
    """Return the gate tensors that decide as a model's heads do, each layer proved on random hidden states.

    Args:
        gated: The model with its heads on it, in evaluation mode; it is left as it is.

    Raises:
        ConfigError: A head, or a part of it, is none that a stock gate can be; or there is a LoRA, or experts are
            quantised.
        ModelError: A folded gate decides otherwise.
    """
    if gated.adapter is not None:
        raise ConfigError(
            "expected heads alone but got a LoRA (model.peft): only router tensors are folded. "
            "Hint: without --fold the card carries it; PEFT's merge_and_unload writes it into the weights."
        )
    if any(isinstance(one, PackedWeight) for one in gated.model.modules()):
        raise ConfigError(
            "expected a base model as it was published but its experts are quantised (model.base.quantise). "
            "Hint: without --fold a router card is written."
        )
    names = {id(one): name for name, one in [*gated.model.named_parameters(), *gated.model.named_buffers()]}
    new: dict[str, Tensor] = {}
    before: dict[str, Tensor] = {}
    for layer in gated.heads:
        gate = gated.gates[layer]
        own = _own_tensors(gate)
        router = _folded(gate, own)
        _prove(gated.family, gate, own, router)
        values = {"weight": router.weight_ED, "bias": router.bias_E, "choice": router.choice_E}
        for part, tensor in own.items():
            value = values[part]
            if value is not None:
                name = stock_name(names[id(tensor)])
                new[name] = value.reshape(tensor.shape).to(tensor.dtype)
                before[name] = tensor.detach().clone()
    return FoldedGates(new, before, list(gated.heads))


def stock_name(name: str) -> str:
    """Return the name a tensor has in the stock model.

    Example:
        >>> stock_name("model.layers.0.mlp.experts.stock.down_proj")
        'model.layers.0.mlp.experts.down_proj'
    """
    return name.replace(".stock.", ".")


def _own_tensors(gate: TunedGate) -> dict[str, Tensor]:
    """Return the gate's tensors that may be written: weight, bias of the projection, bias of the choice."""
    replay = gate.replay
    own: dict[str, Tensor | None] = {
        "weight": gate.pretrained[0],
        "bias": replay.bias(replay.gate),
        "choice": replay.choice_bias(),
    }
    return {part: one for part, one in own.items() if one is not None}


def _folded(gate: TunedGate, own: dict[str, Tensor]) -> StockRouter:
    assert gate.head is not None
    bias, choice = own.get("bias"), own.get("choice")
    # A correction that is not zero has a part in what heads call the probabilities' order: then nothing is added to it.
    free = choice is not None and gate.rule.chooses_by_logits and not choice.any()
    router = StockRouter(
        own["weight"].detach().float(),
        None if bias is None else bias.detach().float(),
        choice.detach().float().reshape(-1) if choice is not None and free else None,
        gate.rule,
    )
    return gate.head.fold(router).settled(type(gate.head).__name__)


def _prove(family: ModelFamily, gate: TunedGate, own: dict[str, Tensor], router: StockRouter) -> None:
    """Refuse a folded gate that decides otherwise than the gate with the head, in float32."""
    replay, rule, stock = gate.replay, gate.rule, gate.replay.gate
    draw = torch.Generator().manual_seed(replay.layer)
    hidden_TD = torch.randn(PROOF_TOKENS, replay.width, generator=draw).to(router.weight_ED.device)
    with torch.autocast(hidden_TD.device.type, enabled=False):
        logits_TE, read_TD = family.project(replay, stock, stock.forward, hidden_TD)
        wanted = decide(gate.head, rule, read_TD, logits_TE)
        folded_TE = functional.linear(read_TD, router.weight_ED, router.bias_E)
        noise_TE = TIE * torch.randn(folded_TE.shape, generator=draw).to(folded_TE.device)
        choice, data = own.get("choice"), router.choice_E
        if choice is None or data is None:
            came, near = (_stock(rule, read_TD, one) for one in (folded_TE, folded_TE + noise_TE))
        else:
            with replaced(choice, data=data.reshape(choice.shape).to(choice.dtype)):
                came, near = (_stock(rule, read_TD, one) for one in (folded_TE, folded_TE + noise_TE))
    one_TE, other_TE = (_spread(one, rule) for one in (wanted, came))
    off_T = (one_TE - other_TE).abs().amax(-1) > ALIKE
    tied_T = ((_spread(near, rule) > 0) != (other_TE > 0)).any(-1)
    if bool((off_T & ~tied_T).any()):
        raise ModelError(
            f"expected a folded gate that decides as {type(gate.head).__name__} does but that of layer {replay.layer} "
            f"gives {int((off_T & ~tied_T).sum())} of {PROOF_TOKENS} random tokens other experts or weights. "
            "Hint: this head says it folds and does not (RouterHead.fold); without --fold a card is written."
        )


def _stock(rule: ScoringRule, read_TD: Tensor, logits_TE: Tensor) -> Decision:
    no_head: RouterHead | None = None
    return decide(no_head, rule, read_TD, logits_TE)


def _spread(decision: Decision, rule: ScoringRule) -> Tensor:
    """Return the weights of all experts, 0 where one is not chosen, (T, E)."""
    weights_TK = decision.weights_TK.float()
    every_TE = weights_TK.new_zeros(len(weights_TK), rule.num_experts)
    return every_TE.scatter_add(-1, decision.experts_TK, weights_TK)
