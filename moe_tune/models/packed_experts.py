"""Experts in 8 or 4 bits: packed as a model is read, and unpacked one at a time by an implementation of their own."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, core_model_loading
from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

from moe_tune.models.blocked_experts import BLOCK, mixed_one_by_one
from moe_tune.models.packed_weight import PackedWeight

NAME = "packed"


def packed_experts_forward(experts: Any, hidden_TD: Tensor, experts_TK: Tensor, weights_TK: Tensor) -> Tensor:
    """Return the mixed expert outputs, as the stock experts with unpacked weights do; one expert is unpacked at a time.

    Shape:
        - returns (T, D).
    """
    inward: PackedWeight = experts.gate_up_proj if experts.has_gate else experts.up_proj
    within = experts._apply_gate if experts.has_gate else experts.act_fn
    inward_bias_EI, outward_bias_ED = None, None
    if experts.has_bias:
        inward_bias_EI = experts.gate_up_proj_bias if experts.has_gate else experts.up_proj_bias
        outward_bias_ED = experts.down_proj_bias

    def output(inner: Tensor, expert: int) -> Tensor:
        inner = inward.product(inner, expert)
        inner = within(inner if inward_bias_EI is None else inner + inward_bias_EI[expert])
        outer: Tensor = experts.down_proj.product(inner, expert)
        outer = outer if outward_bias_ED is None else outer + outward_bias_ED[expert]
        return experts.post_expert_norm(outer) if experts.has_post_expert_norm else outer

    half_on_cpu = hidden_TD.device.type == "cpu" and hidden_TD.dtype.itemsize == 2
    block = BLOCK if half_on_cpu else 1
    return mixed_one_by_one(output, experts.num_experts, hidden_TD, experts_TK, weights_TK, block)


def pack_experts(model: PreTrainedModel, bits: int) -> None:
    """Pack the experts of a model in place, one weight after the other, and let it run them by this implementation."""
    for module in model.modules():
        for name, weight in packable(module).items():
            install(module, name, PackedWeight(weight.data, bits, bool(module.is_transposed)))
    model.set_experts_implementation(NAME)


def packable(module: nn.Module) -> dict[str, nn.Parameter]:
    """Return the weights of a module that are packed: the 3-D ones, if it is one of transformers' fused experts."""
    if not hasattr(module, "is_transposed"):
        return {}
    return {name: one for name, one in module.named_parameters(recurse=False) if one.dim() == 3}


def install(experts: nn.Module, name: str, packed: PackedWeight) -> None:
    """Put packed weights in the place of the parameter of a name."""
    delattr(experts, name)
    experts.add_module(name, packed)


@contextmanager
def packed_on_arrival(bits: int | None) -> Iterator[dict[str, PackedWeight]]:
    """Let transformers pack each layer's experts as soon as it has read them, while this is open.

    What is unpacked at any time is one weight of one layer. In the model the weights are without storage until the
    packed ones, which are given by name, are installed.

    Args:
        bits: 8 or 4; ``None`` leaves all as it is.
    """
    stock, arrived = core_model_loading.set_param_for_module, dict[str, PackedWeight]()

    def packing(model: nn.Module, target_name: str, param_value: Tensor, *rest: Any, **more: Any) -> None:
        stock(model, target_name, param_value, *rest, **more)
        path, _, name = target_name.rpartition(".")
        module = model.get_submodule(path)
        weight = packable(module).get(name)
        if bits is None or weight is None or weight.is_meta:  # no expert, or refused for its shape
            return
        arrived[target_name] = PackedWeight(weight.data, bits, bool(module.is_transposed))
        empty = nn.Parameter(torch.empty_like(weight, device="meta"), requires_grad=False)
        empty._is_hf_initialized = True  # type: ignore[attr-defined]  # else transformers fills it at random
        setattr(module, name, empty)

    core_model_loading.set_param_for_module = packing
    try:
        yield arrived
    finally:
        core_model_loading.set_param_for_module = stock


def install_all(model: PreTrainedModel, arrived: dict[str, PackedWeight]) -> None:
    """Put packed weights into a model in the place of the parameters of these names, and let it run them."""
    for target_name, packed in arrived.items():
        path, _, name = target_name.rpartition(".")
        install(model.get_submodule(path), name, packed)
    model.set_experts_implementation(NAME)


ALL_EXPERTS_FUNCTIONS.register(NAME, packed_experts_forward)
