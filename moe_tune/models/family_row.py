"""What is known of each model type: how its router decides, and which ways of asking it there are."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from moe_tune.models.families import NOT_SERVED, families_with_files, family_of
from moe_tune.models.replayed_rule import ReplayedRule
from moe_tune.routing import SoftmaxRule
from moe_tune.routing.closed_form import ClosedForm

TABLE = Path(__file__).parent / "families.json"
YES = "yes"


def family_row(model_type: str) -> dict[str, str]:
    """Return what is known of a model type that is served, from a tiny model of it.

    Its keys: ``model_type``; ``family``, ``file`` or ``found``; ``weights``, the closed form of the experts' weights;
    ``decides``, ``closed form`` or ``replay``; ``heads`` that it can have; ``answer_path``, ``yes`` or why not.
    """
    family = family_of(model_type)
    config = family.tiny_config()
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config)
    for one in model.parameters():
        if one.dim() == 1:  # a scale per expert is one of the tensors that are all ones at first
            one.data += torch.linspace(0.0, 0.1, len(one))
    layer, block = next(iter(family.moe_layers(model).items()))
    rule = family.rule(family.replay(block, layer))
    form = rule.form if isinstance(rule, ReplayedRule) else None
    if isinstance(rule, SoftmaxRule):
        form = ClosedForm("softmax", rule.renormalise)
    return {
        "model_type": model_type,
        "family": "file" if model_type in families_with_files() else "found",
        "weights": "no closed form" if form is None else form.name,
        "decides": "replay" if isinstance(rule, ReplayedRule) else "closed form",
        "heads": "all" if rule.described else "those that change logits alone",
        "answer_path": family.answer_path_refusal(config) or YES,
    }


def families_table() -> list[dict[str, Any]]:
    """Return what is known of every model type with fused experts, of those that are not served the reason."""
    rows: list[dict[str, Any]] = json.loads(TABLE.read_text(encoding="utf-8"))
    return rows + [{"model_type": name, "refused": reason} for name, reason in NOT_SERVED.items()]
