"""What identifies a base model, without saying where it lies on a machine."""

import re
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ConfigError, require
from moe_tune.models.base_model import MADE, BaseModel

SNAPSHOT = re.compile(r"models--([^/]+?)--([^/]+)/snapshots/([0-9a-f]{40})/?$")
"""A folder of the Hub's cache: owner, name and commit."""


def identity_of(base: BaseModel, fingerprint: str) -> dict[str, Any]:
    """Return what identifies a base model: where others get it, how it is loaded, and the hash of its tensors.

    A local folder is reduced to its name; one of the Hub's cache to repository and commit.

    Args:
        base: The model as a configuration has it.
        fingerprint: One hash over its tensors.

    Example:
        >>> identity_of(BaseModel("/home/me/models/mine"), "a1")["path"]
        'mine'
    """
    source, path, revision = "hub", base.path, base.revision
    if path in ("nano", "random") or path.startswith(MADE):
        source = "package" if path == "nano" else path.partition(":")[0]
    elif found := SNAPSHOT.search(path):
        path, revision = f"{found[1]}/{found[2]}", found[3]
    elif revision is None or Path(path).exists():
        source, path, revision = "folder", Path(path).name, None
    named: dict[str, Any] = {"source": source, "path": path, "revision": revision}
    if path == "random":
        named |= {"family": base.family, "seed": base.seed}
    if base.tokenizer == "olmo-eval":
        named["tokenizer"] = base.tokenizer
    return named | {"dtype": base.dtype, "quantise": base.quantise, "fingerprint": fingerprint}


def base_for(identity: dict[str, Any], given: BaseModel | str | None) -> BaseModel:
    """Return the base model that a card is put on.

    Args:
        identity: What ``identity_of`` returned.
        given: A model, or the folder or Hub id of one, which is then loaded as the card says; ``None`` takes the
            card's own where it can be had from here.

    Raises:
        ConfigError: The card was made on a folder of another machine, and no model is given; or it says of its base
            what is not known here.
    """
    if isinstance(given, BaseModel):
        return given
    if given is None and identity["source"] == "folder":
        raise ConfigError(
            f"expected a base model but got none, and the card's own is a folder called {identity['path']!r} (base). "
            "Hint: load_card(card, 'FOLDER') with that model's folder; its tensors are checked."
        )
    known = {key: value for key, value in identity.items() if key not in ("source", "fingerprint")}
    strange = sorted(known.keys() - {one.name for one in fields(BaseModel)})
    hint = "load it with the version of moe_tune that wrote it."
    require(not strange, "a base model of known keys", strange, "the card's base", hint)
    return BaseModel(**known) if given is None else replace(BaseModel(**known), path=given)
