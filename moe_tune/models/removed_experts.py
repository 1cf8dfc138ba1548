"""Experts removed for real: every tensor of a model that has a row per expert is cut, and its configuration says so."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel

from moe_tune.base.errors import ModelError, require
from moe_tune.models.families import family_of
from moe_tune.models.family import ModelFamily
from moe_tune.models.packed_weight import PackedWeight
from moe_tune.models.shrunk import EXPERTS, TOP_K

FEWER = "give the same number for each layer, or mask them: prune --how mask."


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a model has its experts, as far as removing some is concerned.

    Args:
        config: The configuration of the smaller model.
        places: Name of each tensor with a row per expert, to its layer and the axis of the rows.
    """

    config: PretrainedConfig
    places: dict[str, tuple[int, int]]


def with_experts(config: PretrainedConfig, experts: int, now: int) -> PretrainedConfig:
    """Return a configuration with another number of experts, whatever its field for it is called.

    Args:
        config: The configuration.
        experts: Experts of each layer wanted.
        now: Experts of each layer that it says.

    Raises:
        ModelError: No field says how many there are.
    """
    return _with_number(config, EXPERTS, experts, now, "the number of experts")


def with_top_k(config: PretrainedConfig, top_k: int, now: int) -> PretrainedConfig:
    """Return a configuration with another number of experts per token.

    Raises:
        ModelError: No field says how many there are.
    """
    return _with_number(config, TOP_K, top_k, now, "the number of experts per token")


def _with_number(config: PretrainedConfig, names: Sequence[str], value: int, now: int, what: str) -> PretrainedConfig:
    changed, given = copy.deepcopy(config), config.to_dict()
    found = [name for name in names if given.get(name) == now]
    lists = [name for name in names if isinstance(given.get(name), list) and set(given[name]) == {now}]
    if not found and not lists:
        raise ModelError(
            f"expected one of {', '.join(names)} to be {now}, {what}, but got none (config.json, "
            f"{config.model_type}). Hint: experts of this type can be masked: prune --how mask."
        )
    for name in found:
        setattr(changed, name, value)
    for name in lists:
        setattr(changed, name, [value] * len(given[name]))
    return changed


def cut_of(model: PreTrainedModel, family: ModelFamily, experts: int, top_k: int | None = None) -> Cut:
    """Return where a model is to be cut so that each layer has fewer experts.

    The places are found by looking: two models are made without memory, of the configuration as it is and with fewer
    experts, and tensors that differ have a row per expert.

    Args:
        model: The model, without heads on it.
        family: Its family.
        experts: Experts of each layer that stay.
        top_k: Experts per token of the smaller model; ``None`` leaves them.

    Raises:
        ModelError: Its weights are packed, there are experts outside the layers with a router, or its configuration
            does not hold the number of experts.
        ConfigError: A token could not have as many experts as it needs.
    """
    if any(isinstance(one, PackedWeight) for one in model.modules()) or getattr(
        model.config, "quantization_config", None
    ):
        raise ModelError(
            "expected weights in a plain dtype but got packed ones, which are cut no more (model.base.quantise). "
            "Hint: prune the model as it was published, and quantise what comes of it."
        )
    blocks = family.moe_layers(model)
    replays = {layer: family.replay(block, layer) for layer, block in blocks.items()}
    sizes = {(one.num_experts, one.top_k) for one in replays.values()}
    if len(sizes) > 1:
        raise ModelError(f"expected as many experts in every layer but got (E, K) = {sorted(sizes)} (model.base).")
    ((now, slots),) = sizes
    first = next(iter(replays.values()))
    wanted = slots if top_k is None else top_k
    require(1 <= wanted <= slots, f"1 to {slots} experts per token", wanted, "--top_k", "leave it out to keep K.")
    hint = f"a token has {wanted} of them: remove fewer, or lower --top_k."
    require(wanted <= experts <= now, f"{wanted} to {now} experts of each layer to stay", experts, "prune", hint)
    config = with_experts(model.config, experts, now)
    if first.groups is not None:
        number, open_groups, least = first.groups.number, first.groups.open, first.groups.least
        each, left = divmod(experts, number)
        require(not left, f"a multiple of {number} experts to stay, as many in each group,", experts, "prune", FEWER)
        enough = each >= least and each * open_groups >= wanted
        needed = f"{open_groups} groups of at least {least} experts that hold {wanted} together"
        require(enough, needed, f"{each} experts in each group", "prune", "remove fewer.")
    if top_k is not None and top_k != slots:
        config = with_top_k(config, top_k, slots)
    return Cut(config, _places(model, family, config, blocks, (now, experts)))


def refuse_uncuttable(config: PretrainedConfig, experts: int | None = None, top_k: int | None = None) -> None:
    """Refuse a model whose experts cannot be removed, without its weights.

    Args:
        config: Its configuration.
        experts: Experts of each layer that are to stay; ``None`` asks whether any can be removed.
        top_k: Experts per token of the smaller model; ``None`` leaves them.

    Raises:
        ModelError: It is of a type that cannot be cut.
        ConfigError: Too few would stay.
    """
    family = family_of(config.model_type)
    with torch.device("meta"):
        model: PreTrainedModel = AutoModelForCausalLM.from_config(config)
    replays = [family.replay(block, layer) for layer, block in family.moe_layers(model).items()]
    groups = 1 if replays[0].groups is None else replays[0].groups.number
    cut_of(model, family, replays[0].num_experts - groups if experts is None else experts, top_k)


def _places(
    model: PreTrainedModel,
    family: ModelFamily,
    config: PretrainedConfig,
    blocks: Mapping[int, Any],
    sizes: tuple[int, int],
) -> dict[str, tuple[int, int]]:
    before, after = ({name: one.shape for name, one in _made(each).items()} for each in (model.config, config))
    prefixes = {layer: _prefix(model, block) for layer, block in blocks.items()}
    found: dict[str, tuple[int, int]] = {}
    for name, shape in before.items():
        smaller = after.get(name)
        if smaller == shape:
            continue
        if smaller is None or len(smaller) != len(shape):
            raise ModelError(f"expected {name} in the smaller model too but got none ({config.model_type}).")
        axes = [axis for axis, (one, other) in enumerate(zip(shape, smaller, strict=True)) if one != other]
        layer = next((layer for layer, prefix in prefixes.items() if name.startswith(prefix)), None)
        if len(axes) != 1 or (shape[axes[0]], smaller[axes[0]]) != sizes or layer is None:
            raise ModelError(
                f"expected experts that a router chooses among but {name}, {tuple(shape)}, depends on their number too "
                f"({config.model_type}): what it says of experts could not be cut with them. Hint: prune --how mask."
            )
        found[name] = (layer, axes[0])
    if set(after) - set(before) or {layer for layer, _ in found.values()} != set(blocks):
        raise ModelError(f"expected tensors with a row per expert in every layer but got {sorted(found)[:4]}.")
    return found


def _made(config: PretrainedConfig) -> dict[str, Tensor]:
    """Return the tensors of a model of a configuration, without memory for them."""
    with torch.device("meta"):
        made: dict[str, Tensor] = AutoModelForCausalLM.from_config(config).state_dict()
    return made


def _prefix(model: PreTrainedModel, block: Any) -> str:
    return f"{next(name for name, one in model.named_modules() if one is block)}."


def removed(
    model: PreTrainedModel, family: ModelFamily, cut: Cut, kept: Mapping[int, Sequence[int]]
) -> dict[str, Tensor]:
    """Return the tensors of the smaller model; they are cut in the model itself, which is then spent.

    Args:
        model: The model, without heads on it.
        family: Its family.
        cut: Where it is cut.
        kept: The experts of each layer that stay, ascending.

    Raises:
        ConfigError: Another number stays in some layer or group, or an expert is not there.
    """
    blocks = family.moe_layers(model)
    require(sorted(kept) == sorted(blocks), f"experts of layers {sorted(blocks)}", sorted(kept), "prune", FEWER)
    for layer, block in blocks.items():
        replay = family.replay(block, layer)
        _refuse_uneven(layer, kept[layer], replay.num_experts, None if replay.groups is None else replay.groups.number)
    counts = {len(one) for one in kept.values()}
    require(len(counts) == 1, "the same number of experts in every layer", sorted(counts), "prune", FEWER)
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name, (layer, axis) in cut.places.items():
        one = tensors[name]
        one.data = one.data.index_select(axis, torch.tensor(list(kept[layer]), device=one.device))
    state: dict[str, Tensor] = model.state_dict()
    return state


def _refuse_uneven(layer: int, kept: Sequence[int], experts: int, groups: int | None) -> None:
    rising = list(kept) == sorted(set(kept))
    there = rising and all(0 <= one < experts for one in kept)
    require(there, f"experts 0 to {experts - 1} of layer {layer}, ascending,", list(kept), "prune", FEWER)
    if groups is None:
        return
    each = [sum(one // (experts // groups) == group for one in kept) for group in range(groups)]
    expected = f"equally many experts to stay in each of the {groups} groups of layer {layer}"
    require(len(set(each)) == 1, expected, each, "prune", FEWER)
