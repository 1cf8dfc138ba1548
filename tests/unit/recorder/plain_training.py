"""Models that train, batches with padding and labels, and what both trainers are asked for."""

import torch
from found_models import found_model

TYPES = ("olmoe", "mixtral", "deepseek_v3", "gpt_oss", "gemma4_text", "phimoe")
"""A family with a file, and one of each kind of gate: with a bias, with groups, with a norm, without a closed form."""
LENGTHS = (9, 6, 3, 8, 1)


def trained_model(model_type):
    """Return a tiny model all of whose tensors train, without noise in its gates, and its family."""
    model, family = found_model(model_type)
    model.config.output_router_logits = False
    model.train().requires_grad_(True)
    for block in family.moe_layers(model).values():
        block.get_submodule(family.gate_path).eval()  # in training that of phimoe draws experts by lot
    return model, family


def padded_batch(side="right", seed=1, lengths=LENGTHS):
    """Return a batch of questions of different lengths with labels, padded on a side."""
    longest = max(lengths)
    draw = torch.Generator().manual_seed(seed)
    ids = torch.randint(1, 64, (len(lengths), longest), generator=draw)
    place_S = torch.arange(longest) if side == "right" else torch.arange(longest).flip(0)
    mask = (place_S[None] < torch.tensor(lengths)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": torch.where(mask.bool(), ids, -100)}


def hooks_of(model):
    """Return how many hooks the modules of a model have."""
    kinds = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_always_called")
    return sum(len(getattr(module, kind)) for module in model.modules() for kind in kinds)


def rows(count=16, seed=3):
    """Return training rows of one length."""
    ids = torch.randint(1, 64, (count, 7), generator=torch.Generator().manual_seed(seed))
    return [{"input_ids": one, "attention_mask": torch.ones_like(one), "labels": one} for one in ids]
