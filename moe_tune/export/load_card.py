"""A router card on a base model."""

import re
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

import moe_tune.heads  # noqa: F401 - importing the folder makes its classes known
from moe_tune.base.errors import ConfigError, ModelError
from moe_tune.base.hub_snapshot import hub_snapshot
from moe_tune.base.plugins import concrete_subclasses
from moe_tune.base.trusted import PLUGIN
from moe_tune.export.base_identity import base_for
from moe_tune.export.card import CARD, README, SEEN, TENSORS, RouterCard, read_card
from moe_tune.export.card_of_run import class_paths
from moe_tune.gates.gated_model import GatedModel
from moe_tune.heads.base import RouterHead
from moe_tune.models.base_model import BaseModel
from moe_tune.tuner.opening import ModelSettings, open_model


def load_card(
    card: str | Path, base: BaseModel | str | None = None, device: str = "cpu", revision: str | None = None
) -> GatedModel:
    """Return a base model with the heads, and the adapter, of a router card on it.

    Nothing of the card is run: its head's class has to be known here, and tensors are safetensors.

    Args:
        card: The card's folder, or a Hub repository with its ``revision``.
        base: The base model, or the folder or Hub id of one; ``None`` takes the card's own, where that is no folder of
            the machine it was made on.
        device: Where the model shall be.
        revision: The 40-digit commit of a card on the Hub.

    Raises:
        ConfigError: The head's class is not known here, or the card's base is a folder and none is given.
        ModelError: It is no card, it was changed, or the base model is not the one it was made for.
        ServiceError: The Hub cannot be reached.
    """
    kept = read_card(_folder(card, revision))
    asked, source = kept.settings, base_for(kept.settings["base"], base)
    settings = ModelSettings(
        source,
        _head(kept),
        layers=asked["layers"],
        scope=asked["scope"],
        routing_dtype=asked["routing_dtype"],
        peft=asked["peft"],
    )
    gated = open_model(settings, torch.device(device)).gated
    wanted = asked["base"]["fingerprint"]
    if gated.fingerprint != wanted:
        own = " at ".join(str(one) for one in (asked["base"]["path"], asked["base"]["revision"]) if one)
        raise ModelError(
            f"expected the base model of the card, {own} in {asked['base']['dtype']}, fingerprint {wanted}, but got "
            f"{source.path} in {source.dtype}, fingerprint {gated.fingerprint} ({card}). "
            "Hint: the very same weights in the same dtype; a head does nothing known on others."
        )
    gated.load_state(kept.tensors, str(card))
    gated.calibrated_on = frozenset(kept.calibrated_on)
    gated.train(False)
    return gated


def _folder(card: str | Path, revision: str | None) -> Path:
    if Path(card).exists() or revision is None:
        return Path(card)
    if not re.fullmatch("[0-9a-f]{40}", revision):
        raise ConfigError(
            f"expected a 40-digit commit but got {revision!r} (revision). "
            "Hint: copy the commit from the card's page; branches and tags can move."
        )
    return hub_snapshot(str(card), revision, (CARD, README, SEEN, TENSORS), "the router card")


def _head(card: RouterCard) -> RouterHead:
    """Return the head's prototype; no module is imported because a card names it."""
    known = {f"{kind.__module__}.{kind.__name__}" for kind in concrete_subclasses(RouterHead).values()}
    for path in class_paths(card.settings["head"]):
        if path not in known and path not in {one.rpartition(".")[2] for one in known}:
            module = path.rpartition(".")[0]
            file = f"{module.removeprefix(PLUGIN)}.py" if module.startswith(PLUGIN) else module
            raise ConfigError(
                f"expected a head that is known here but the card names {path} ({CARD}). Hint: import it first, "
                f"load_plugin_file({file!r}) of moe_tune.base.plugins; code never comes with a card."
            )
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--head", type=RouterHead)
    asked: dict[str, Any] = {"head": card.settings["head"]}
    try:
        head: RouterHead = parser.instantiate_classes(parser.parse_object(asked)).head
    except (ArgumentError, TypeError, ValueError, KeyError) as fault:
        told = " ".join(str(fault).split())[:200]
        raise ModelError(
            f"expected a head that can be made of what the card says but got: {told} ({CARD}). "
            "Hint: load it with the version of moe_tune that wrote it."
        ) from fault
    return head
