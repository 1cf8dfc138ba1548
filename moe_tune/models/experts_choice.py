"""Which experts implementation is fastest here: measured once per machine, device, dtype and shape, then remembered."""

import contextlib
import json
import platform
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import PreTrainedModel

from moe_tune.base.errors import MoeTuneError
from moe_tune.base.published import write_json
from moe_tune.base.user_folders import user_folder
from moe_tune.models import blocked_experts, packed_experts
from moe_tune.models.family import ModelFamily
from moe_tune.models.packed_weight import PackedWeight, fused_weights

CANDIDATES = ("eager", "grouped_mm", blocked_experts.NAME)


def cache_file() -> Path:
    """Return the file the measurements are kept in, ``$XDG_CACHE_HOME/moe_tune/experts.json``."""
    return user_folder("XDG_CACHE_HOME", "~/.cache") / "experts.json"


@contextlib.contextmanager
def experts_run_by(model: PreTrainedModel, name: str | None) -> Iterator[None]:
    """Let a model use another experts implementation for as long as the context lasts; ``None`` is its own."""
    before = model.config._experts_implementation
    try:
        model.set_experts_implementation(name or before)
        yield
    finally:
        model.set_experts_implementation(before)


def measured_choice(model: PreTrainedModel, family: ModelFamily, tokens: int = 1024, repeats: int = 3) -> str:
    """Return the fastest of the candidates for a model's expert layers, measuring only the first time."""
    block = next(iter(family.moe_layers(model).values()))
    experts = block.get_submodule(family.experts_path)
    weight = fused_weights(experts)[0]
    if isinstance(weight, PackedWeight):
        return packed_experts.NAME
    sizes = "x".join(str(size) for size in weight.shape)
    device = torch.cuda.get_device_name(weight.device) if weight.device.type == "cuda" else str(weight.device)
    where = [platform.node(), str(torch.get_num_threads()), torch.__version__, device]
    candidates = CANDIDATES if blocked_experts.serves(experts) else CANDIDATES[:2]
    key = "|".join([*where, str(weight.dtype), sizes, str(tokens), *candidates])
    file = cache_file()
    known = _remembered(file)
    if known.get(key) in candidates:
        return known[key]
    seconds = {name: _seconds(model, family, name, tokens, repeats) for name in candidates}
    known[key] = min(seconds, key=lambda name: seconds[name])
    with contextlib.suppress(OSError, MoeTuneError):  # a folder that cannot be written only means measuring again
        write_json(file, known)
    return known[key]


def _remembered(file: Path) -> dict[str, str]:
    """Return the kept measurements; a file that cannot be read is none."""
    try:
        known = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


@torch.no_grad()
def _seconds(model: PreTrainedModel, family: ModelFamily, name: str, tokens: int, repeats: int) -> float:
    layer, block = next(iter(family.moe_layers(model).items()))
    experts, replay = block.get_submodule(family.experts_path), family.replay(block, layer)
    calls = []
    for _ in range(repeats + 1):
        hidden_TD = replay.drawn_hidden(tokens)
        _, weights_TK, experts_TK = replay.stock(hidden_TD)
        calls.append((hidden_TD, experts_TK, weights_TK))
    with experts_run_by(model, name):
        _timed(experts, calls[0])  # the first call allocates
        return min(_timed(experts, one) for one in calls[1:])


def _timed(experts: torch.nn.Module, call: tuple[torch.Tensor, ...]) -> float:
    """Return the seconds of one call, the GPU's work included."""
    start = time.perf_counter()
    experts(*call)
    if call[0].device.type == "cuda":
        torch.cuda.synchronize(call[0].device)
    return time.perf_counter() - start
