"""What a prompt cache is of: its description, for people, and its key, a hash of all that decides its content."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch

from moe_tune.answer_path.circumstances import Circumstances
from moe_tune.answer_path.store import cache_root
from moe_tune.data.encoding import EncodedSplit

LABELS = ("model", "revision", "split", "protocol", "few_shot")
"""Parts of a cache's description that are for people; the hashes beside them say the same, exactly."""


def describe_cache(
    here: Circumstances, split: str, first_layer: int, trunk: bool, hashes: dict[str, str]
) -> dict[str, Any]:
    """Return what a cache of a split's prompts is of."""
    return {
        **describe_model(here, first_layer),
        "split": split,
        "protocol": here.quiz.protocol_name(split),
        "few_shot": here.quiz.few_shot,
        "questions": len(here.quiz.encoded(split).prompts),
        "kind": "trunk" if trunk else "prompts",
        **hashes,
    }


def describe_model(here: Circumstances, first_layer: int) -> dict[str, Any]:
    """Return the part of a description that says by which model and numerics, and from which layer on."""
    config, device = here.gated.model.config, here.gated.device.type
    autocast = torch.is_autocast_enabled(device)
    return {
        "model": here.path,
        "revision": here.revision,
        "weights_sha256": here.gated.fingerprint,
        "config_sha256": _config_hash(config.to_dict()),
        "dtype": str(here.gated.model.dtype).removeprefix("torch."),
        "autocast": str(torch.get_autocast_dtype(device)) if autocast else None,
        "routing_dtype": here.gated.routing_dtype,
        "first_layer": first_layer,
        "layers": len(here.gated.model.base_model.layers),
    }


def cache_folder(description: dict[str, Any], root: str | None) -> Path:
    """Return the folder of a cache: two descriptions share it if and only if they differ in labels alone."""
    exact = {key: value for key, value in description.items() if key not in LABELS}
    return cache_root(root) / hashlib.sha256(json.dumps(exact, sort_keys=True).encode()).hexdigest()[:16]


def prompt_hashes(split: EncodedSplit) -> dict[str, str]:
    """Return hashes of which questions are asked, in order, and of every token of their prompts and choices."""
    ids, tokens = hashlib.sha256(), hashlib.sha256()
    for one in split.prompts:
        ids.update(f"{one.question.id}\n".encode())
        for part_S in (one.ids_S, *one.choices):
            tokens.update(f"{len(part_S)}\n".encode() + part_S.numpy().tobytes())
    return {"questions_sha256": ids.hexdigest(), "tokens_sha256": tokens.hexdigest()}


def _config_hash(config: dict[str, Any]) -> str:
    """Return a hash of what a model's configuration says about its computation."""
    told_elsewhere = ("dtype", "torch_dtype", "transformers_version", "architectures", "experts_implementation")
    kept = {key: value for key, value in config.items() if not key.startswith("_") and key not in told_elsewhere}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()
