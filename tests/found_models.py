"""Tiny models of every type that is found, with nothing in them that is zero or one by default."""

import torch
from transformers import AutoModelForCausalLM

from moe_tune.models.families import families_with_files, family_of, found_types

TYPES = found_types()
ONE_OF_EACH = ("mixtral", "gpt_oss", "dots1", "deepseek_v3", "deepseek_v4", "gemma4_text", "phimoe", "lfm2_moe")
"""One type per closed form, and those whose parts hide."""
IN_CI = (*families_with_files(), *ONE_OF_EACH)


def found_model(model_type, dtype=torch.float32):
    """Return a tiny model whose biases, norms and buffers all count, and its family."""
    family = family_of(model_type)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(family.tiny_config(), dtype=dtype, experts_implementation="eager").eval()
    kept = getattr(model, "_keep_in_fp32_modules_strict", None) or []
    for name, one in model.named_parameters():
        one.data = one.data.float() if any(part in name for part in kept) else one.data
        if one.dim() > 1:
            torch.nn.init.normal_(one, std=1.5 * one.shape[-1] ** -0.5)
        else:
            one.data += 0.1 * torch.randn_like(one)
    for name, one in model.named_buffers():
        if "bias" in name:
            one.normal_(std=0.1)
    return model.requires_grad_(False), family  # what wants a gradient goes other ways in some convolutions


def refusal_of(model_type):
    """Return why a tiny model of a type cannot be asked from kept keys, or ``None``."""
    family = family_of(model_type)
    return family.answer_path_refusal(family.tiny_config())
