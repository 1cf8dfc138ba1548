"""A choice applied: the configuration of a masked model, or a smaller model written for real."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from moe_tune.base.published import published, write_json
from moe_tune.heads.base import RouterHead
from moe_tune.heads.fixed_k import FixedKHead
from moe_tune.heads.masked_experts import MaskedExperts
from moe_tune.heads.stack import Stack
from moe_tune.models.base_model import BaseModel
from moe_tune.models.removed_experts import cut_of, removed
from moe_tune.models.written_model import write_model
from moe_tune.pruning.prune_settings import PruneSettings
from moe_tune.runs.directory import to_yaml
from moe_tune.tuner.opening import ModelSettings

MASKED, ABOUT = "masked.yaml", "pruning.json"
"""What a folder of pruning holds: the configuration of a masked model, and what was chosen by what."""
DTYPES = ("float32", "bfloat16", "float16")


def masking_head(gone: Mapping[int, list[int]], top_k: int | None = None) -> RouterHead:
    """Return the head with which a model does without experts.

    Args:
        gone: The experts of each layer that are never chosen.
        top_k: Experts per token; ``None`` keeps K.
    """
    mask = MaskedExperts({layer: list(some) for layer, some in gone.items() if some})
    return mask if top_k is None else Stack({"mask": mask, "fewer": FixedKHead(top_k)})


def mask_config(gone: Mapping[int, list[int]], top_k: int | None) -> dict[str, Any]:
    """Return ``masking_head`` as a configuration says it."""
    mask = {"class_path": "MaskedExperts", "init_args": {"experts": {key: one for key, one in gone.items() if one}}}
    if top_k is None:
        return mask
    fewer = {"class_path": "FixedKHead", "init_args": {"k": top_k}}
    return {"class_path": "Stack", "init_args": {"parts": {"mask": mask, "fewer": fewer}}}


def masked_model(settings: ModelSettings, gone: dict[int, list[int]], asked: PruneSettings) -> ModelSettings:
    """Return the settings of the masked model, after writing them down."""
    head = mask_config(gone, asked.top_k)
    with published(asked.out) as draft:
        draft.mkdir()
        model = {"layers": "all", "scope": "all", "head": head}
        (draft / MASKED).write_text(to_yaml({"model": model}), encoding="utf-8")
        write_json(draft / ABOUT, _about(settings.base, gone, asked))
    return replace(settings, head=masking_head(gone, asked.top_k), scope="all")


def smaller_model(settings: ModelSettings, gone: dict[int, list[int]], asked: PruneSettings) -> ModelSettings:
    """Return the settings of the smaller model, after writing it in the dtype it was published in."""
    about = json.dumps(_about(settings.base, gone, asked), indent=2, sort_keys=True) + "\n"
    remove_experts(settings.base, gone, asked.out, asked.top_k, {ABOUT: about})
    return replace(settings, base=replace(settings.base, path=str(asked.out), revision=None, tokenizer=None))


def remove_experts(
    base: BaseModel,
    gone: Mapping[int, list[int]],
    out: Path,
    top_k: int | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model without some of its experts as a folder that plain transformers loads; each tensor is read back.

    Args:
        base: The model.
        gone: The experts of each layer that go: equally many of each, and of each group.
        out: A new folder.
        top_k: Experts per token; ``None`` keeps K.
        beside: Text of further files, by name.

    Raises:
        ConfigError: Another number goes from some layer or group, or the folder exists.
        ModelError: The model cannot be cut, or is not read back as it was written.
    """
    published_in = str(base.load_config().dtype).removeprefix("torch.")
    dtype: Any = published_in if published_in in DTYPES else base.dtype
    plain = replace(base, dtype=dtype, experts_implementation="eager", gradient_checkpointing=False)
    tokenizer = base.load_tokenizer()
    model, family = plain.load()
    layers = family.moe_layers(model)
    experts = {layer: family.replay(block, layer).num_experts for layer, block in layers.items()}
    kept = {layer: [one for one in range(experts[layer]) if one not in set(gone.get(layer, ()))] for layer in layers}
    cut = cut_of(model, family, min(map(len, kept.values())), top_k)
    state, generation = removed(model, family, cut, kept), model.generation_config
    del model, layers  # what is written is read back, and shall not be in memory twice
    write_model(out, cut.config, state, tokenizer, generation, beside)


def _about(base: BaseModel, gone: dict[int, list[int]], asked: PruneSettings) -> dict[str, Any]:
    options = {key: one for key, one in vars(asked.criterion).items() if not key.startswith("_")}
    return {
        "base": {"path": base.path, "revision": base.revision},
        "criterion": {"name": type(asked.criterion).__name__, **options},
        "how": asked.how,
        "scope": asked.scope,
        "split": asked.split,
        "top_k": asked.top_k,
        "gone": {str(layer): some for layer, some in gone.items()},
    }
