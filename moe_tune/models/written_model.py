"""A model written as a folder that plain transformers loads, and read back before it stands."""

import hashlib
from collections import Counter
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, GenerationConfig, PretrainedConfig

from moe_tune.base.errors import ModelError, require
from moe_tune.base.published import published
from moe_tune.models.unmapped import unmapped_files


def write_model(
    folder: Path,
    config: PretrainedConfig,
    state: MutableMapping[str, Tensor],
    tokenizer: Any,
    generation: GenerationConfig | None = None,
    beside: Mapping[str, str] | None = None,
) -> None:
    """Write a model's folder, read every tensor of it back with plain transformers, and only then let it stand.

    Args:
        folder: Where; nothing may stand there.
        config: Its configuration; the dtype that most of the tensors have is noted in it.
        state: All of its tensors, by the names of its ``state_dict``; emptied before they are read back, so that none
            is in memory twice where the caller holds no other reference.
        tokenizer: Its tokenizer.
        generation: How it generates, where that is known.
        beside: Text of further files, by name.

    Raises:
        ConfigError: Something stands there.
        ModelError: A tensor read back is not what was written.
    """
    hint = "give the name of a new one."
    require(not folder.exists(), "a folder that does not exist yet", str(folder), "--out", hint)
    sizes: Counter[torch.dtype] = Counter()
    for one in state.values():
        sizes[one.dtype] += one.numel() if one.is_floating_point() else 0
    ((dtype, _),) = sizes.most_common(1)
    with torch.device("meta"):
        made: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    if generation is not None:
        made.generation_config = generation
    with published(folder) as draft:
        draft.mkdir()
        wrote = {name: (one.dtype, _hash(one)) for name, one in state.items()}
        made.save_pretrained(draft, state_dict=dict(state))  # it takes names out of what it is given
        for file in draft.glob("*.safetensors"):  # which are written for their owner alone
            file.chmod((draft / "config.json").stat().st_mode)
        tokenizer.save_pretrained(draft)
        for name, text in (beside or {}).items():
            (draft / name).write_text(text, encoding="utf-8")
        state.clear()
        _confirm(draft, wrote)


def _confirm(folder: Path, wrote: Mapping[str, tuple[torch.dtype, str]]) -> None:
    with unmapped_files():
        back, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype="auto", output_loading_info=True, trust_remote_code=False
        )
    came: dict[str, Tensor] = back.state_dict()
    faults = sorted(str(name) for names in report.values() if isinstance(names, set | list) for name in names)
    faults += sorted({*came} ^ {*wrote})
    faults += [name for name in sorted({*came} & {*wrote}) if not _same(came[name], *wrote[name])]
    if faults:
        raise ModelError(
            f"expected every tensor to be read back as it was written but got {len(faults)} others, {faults[:4]} "
            f"({folder.name}). Hint: transformers keeps this type of model in another way; mask the experts instead."
        )


def _same(came: Tensor, dtype: torch.dtype, wrote: str) -> bool:
    """Return whether a tensor holds the numbers that were written; some are read in float32 at any rate."""
    return torch.promote_types(came.dtype, dtype) == came.dtype and _hash(came.to(dtype)) == wrote


def _hash(one: Tensor) -> str:
    """Return the sha256 of a tensor's bytes and shape."""
    found = hashlib.sha256(str(tuple(one.shape)).encode())
    found.update(one.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
