"""A PEFT adapter in the base model, beside the router heads or instead of them."""

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from moe_tune.base.errors import ConfigError, did_you_mean, require
from moe_tune.models.expert_subset import ExpertSubset
from moe_tune.models.packed_weight import PackedWeight

NEVER = {
    "modules_to_save": "it would train copies of whole modules",
    "trainable_token_indices": "it would train embeddings",
    "layer_replication": "it would make another model",
    "loftq_config": "it would change the base model's weights",
    "eva_config": "it needs a pass over data that is not made",
    "corda_config": "it needs a pass over data that is not made",
    "lora_ga_config": "it needs a pass over data that is not made",
    "megatron_config": "PEFT would import what it names",
    "megatron_core": "PEFT would import what it names",
}
"""Options of PEFT that are no low-rank change beside a frozen model, and why."""
STARTS = (True, "gaussian")
"""Values of ``init_lora_weights`` at which the change is 0 and the base model stays what it is."""
IN_LAYER = re.compile(r"layers\.(\d+)\.")
PREFIX = "base_model.model."
"""What PEFT puts before the names of the model's own modules in the files of an adapter."""


class Adapter:
    """Low-rank changes of chosen weights of a model: attention, routers, experts; trained with the heads.

    Formula: ``W' = W + (lora_alpha / r) B A``, ``B = 0`` at the start. It acts on every token: no prompt can be kept.

    Args:
        model: A causal language model of transformers, its heads attached and everything else frozen; changed in place.
        options: Arguments of ``peft.LoraConfig``: ``r``, ``lora_alpha``, ``target_modules`` (``[q_proj, v_proj]``),
            ``target_parameters`` (``[mlp.gate.weight]``, ``[mlp.experts.gate_up_proj]``), ``layers_to_transform``, ...
            Options that change the base model or train more than the LoRA are refused. Beside them ``experts``, the
            arguments of ``ExpertSubset``: the LoRA trains some experts alone.

    Raises:
        ConfigError: PEFT knows no such option, refuses a value, or finds no such module or parameter; or the experts
            it names are quantised.

    Reference:
        Hu et al. 2021, "LoRA", https://arxiv.org/abs/2106.09685
    """

    def __init__(self, model: PreTrainedModel, options: dict[str, Any]) -> None:
        from peft import LoraConfig, LoraModel

        options = dict(options)
        self.subset = ExpertSubset.of(options.pop("experts", None))
        """Which experts are trained; ``None`` for all."""
        if self.subset is not None:
            options = self.subset.scaled(options, _fused_experts(model, options))
        known = LoraConfig.__dataclass_fields__
        for name in options:
            require(name in known, "an option of peft.LoraConfig", name, "model.peft", did_you_mean(name, known))
            never = name in NEVER and options[name]
            hint = f"leave it out; {NEVER.get(name)}."
            require(not never, "a LoRA beside a frozen model", name, "model.peft", hint)
            number = not isinstance(options[name], float) or math.isfinite(options[name])
            require(number, "a finite number", options[name], f"model.peft.{name}", "lora_alpha: 16 is usual.")
        hint = "leave it out: the model has to start as the pretrained one, and all but the LoRA stays frozen."
        for name, allowed in (("init_lora_weights", STARTS), ("bias", ("none",)), ("peft_type", ("LORA",))):
            value = options.get(name, allowed[0])
            require(value in allowed, " or ".join(map(repr, allowed)), value, f"model.peft.{name}", hint)
        dropout = options.get("lora_dropout") if options.get("target_parameters") else None
        hint = "leave it out: PEFT has none for target_parameters."
        require(not dropout, "no dropout", dropout, "model.peft.lora_dropout", hint)
        trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        try:
            _refuse_packed(model, options)
            self.config = LoraConfig(**options)
            self._injected = LoraModel(model, self.config, "default")  # changes the model in place
        except (ValueError, TypeError, AttributeError, KeyError, ImportError, RuntimeError, re.error) as fault:
            raise ConfigError(
                f"expected a LoRA that PEFT can apply but got: {' '.join(str(fault).split())} (model.peft). "
                "Hint: target_modules: [q_proj, v_proj], or target_parameters: [mlp.gate.weight]."
            ) from fault
        for parameter in trained:
            parameter.requires_grad_(True)  # PEFT has frozen the heads with all the rest
        self.model = model
        self._hooks: list[Any] = []
        heads = {id(parameter) for parameter in trained}
        self.parameters: dict[str, nn.Parameter] = {
            PREFIX + name.replace(".default", "").replace(".stock.", "."): parameter
            for name, parameter in model.named_parameters()
            if parameter.requires_grad and id(parameter) not in heads
        }
        """The trained parameters, named as in PEFT's files."""
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()  # small updates are lost in half precision
        try:
            self._refuse_unmatched(options)
        except ConfigError:
            self.detach()
            raise

    def _refuse_unmatched(self, options: dict[str, Any]) -> None:
        """Refuse a target that PEFT passed over because others were found."""
        changed = {name.removeprefix(PREFIX).split(".lora_")[0] for name in self.parameters}
        modules = options.get("target_modules") or []
        targets = [] if isinstance(modules, str) else list(modules)
        targets += [name.rpartition(".")[0] for name in options.get("target_parameters") or []]
        for target in targets:
            found = any(f".{name}".endswith(f".{target}") for name in changed)
            hint = did_you_mean(target, {name.rpartition(".")[2] for name in changed})
            require(found, "targets that the model has", target, "model.peft", hint)

    def expert_layers(self) -> dict[int, list[Any]]:
        """Return PEFT's layers on fused expert weights, by the layer they are in."""
        found: dict[int, list[Any]] = {}
        for name, module in self.model.named_modules():
            if getattr(module, "num_experts", 1) > 1 and hasattr(module, "lora_A"):
                found.setdefault(int(IN_LAYER.findall(name)[-1]), []).append(module)
        return found

    def restrict(self, experts: Mapping[int, Sequence[int]]) -> None:
        """Train the LoRA of some experts alone: the gradient of the others is 0, and so their change stays nothing.

        Args:
            experts: The experts that are trained, by layer.
        """
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        for layer, modules in self.expert_layers().items():
            for module in modules:
                down, up = (one["default"].weight for one in (module.lora_A, module.lora_B))
                mask_E = torch.zeros(module.num_experts, device=down.device)
                mask_E[list(experts[layer])] = 1
                rank = len(down) // module.num_experts
                # As PEFT lays them out: experts before ranks going down, ranks before experts going up.
                for weight, mask in ((down, mask_E.repeat_interleave(rank)[:, None]), (up, mask_E.repeat(rank)[None])):
                    self._hooks.append(weight.register_hook(partial(torch.mul, mask)))

    @property
    def trained_numbers(self) -> int:
        """How many numbers are trained; those of experts left out are not counted."""
        every = sum(one.numel() for one in self.parameters.values())
        if self.subset is None:
            return every
        of_experts = [one for modules in self.expert_layers().values() for one in modules]
        left = 0
        for module in of_experts:
            size = sum(one["default"].weight.numel() for one in (module.lora_A, module.lora_B))
            left += size * (module.num_experts - self.subset.count(module.num_experts)) // module.num_experts
        return every - left

    def train(self, mode: bool) -> None:
        """Put the LoRA's dropout into a mode; the rest of the model knows none."""
        from peft.tuners.lora.layer import LoraLayer

        for module in self.model.modules():
            if isinstance(module, LoraLayer):
                module.lora_dropout.train(mode)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Let the model be what it was without the adapter, for as long as the context lasts."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [module for module in self.model.modules() if isinstance(module, BaseTunerLayer)]
        for layer in layers:
            layer.enable_adapters(False)
        try:
            yield
        finally:
            for layer in layers:
                layer.enable_adapters(True)

    def detach(self) -> None:
        """Take the LoRA out of the model, which is then what it was."""
        self._injected.unload()

    def description(self, base: str) -> dict[str, Any]:
        """Return what PEFT writes as ``adapter_config.json``."""
        plain = self.config.to_dict() | {"base_model_name_or_path": base, "inference_mode": True}
        return {key: sorted(value) if isinstance(value, set) else value for key, value in plain.items()}


def _fused_experts(model: PreTrainedModel, options: dict[str, Any]) -> int:
    """Return how many experts there are in the fused weights that a LoRA is asked for, all of one number."""
    targets = list(options.get("target_parameters") or [])
    asked = [one for name, one in model.named_parameters() if any(f".{name}".endswith(f".{to}") for to in targets)]
    found = {len(one) if one.dim() == 3 else 0 for one in asked}
    hint = "target_parameters: [mlp.experts.gate_up_proj]."
    require(len(found) == 1 and 0 not in found, "a LoRA on fused expert weights", targets, "model.peft.experts", hint)
    return found.pop()


def _refuse_packed(model: PreTrainedModel, options: dict[str, Any]) -> None:
    """Refuse targets among experts whose weights are packed."""
    modules, parameters = options.get("target_modules") or [], options.get("target_parameters") or []
    pattern, endings = (modules, parameters) if isinstance(modules, str) else (None, [*modules, *parameters])
    for name in (name for name, one in model.named_modules() if isinstance(one, PackedWeight)):
        met = [one for one in endings if f".{name}".endswith(f".{one}")]
        if pattern and re.fullmatch(pattern, name):
            met.append(pattern)
        hint = "model.base.quantise null, or a LoRA beside the experts."
        require(not met, "no LoRA on quantised experts", met, "model.peft", hint)
