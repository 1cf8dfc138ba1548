"""The router card of a run, in memory."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from moe_tune.base.checkpoint_folder import CONFIG, read_checkpoint
from moe_tune.base.errors import ConfigError, require
from moe_tune.base.found import tested_checkpoint
from moe_tune.base.redact import redacted
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.base.trusted import refuse_foreign
from moe_tune.export.base_identity import identity_of
from moe_tune.export.card import RouterCard
from moe_tune.models.base_model import BaseModel
from moe_tune.runs.directory import RunDirectory, environment
from moe_tune.settings.ending import paired_with_pretrained

KEPT_VERSIONS = ("moe-tune", "torch", "transformers", "peft")
READ = ("MeanOfRuns", "RoutesHead")
"""Heads of the package that read runs or files whenever a model is loaded."""


def card_of_run(checkpoint: Path) -> RouterCard:
    """Return the router card of a run's checkpoint; no model is loaded.

    Metrics are those the run recorded of its tested checkpoint; of another checkpoint of it there are none.

    Args:
        checkpoint: What ``found_checkpoint`` returned.

    Raises:
        ConfigError: The head reads runs or files, or an argument names a place of this machine.
        ModelError: The checkpoint is not intact.
    """
    card = described_run(checkpoint, read_checkpoint(checkpoint))
    _refuse_readers(card.settings["head"])
    for place in _places({key: card.settings[key] for key in ("head", "peft")}):
        hint = "a card goes to other machines: --fold may hold what the head comes to."
        raise ConfigError(f"expected no path of this machine in a card but got {place!r} (model.head). Hint: {hint}")
    return card


def described_run(checkpoint: Path, kept: dict[str, Any]) -> RouterCard:
    """Return what a router card says of a run, whether or not it can be one.

    Args:
        checkpoint: The checkpoint's folder.
        kept: What it holds.
    """
    config = load_yaml(checkpoint / CONFIG)
    refuse_foreign(config, str(checkpoint / CONFIG))
    model = config["model"]
    home = checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint
    manifest = RunDirectory(home).manifest if home != checkpoint else {}
    head = {"class_path": model["head"]} if isinstance(model["head"], str) else dict(model["head"])
    settings = {"head": head, "layers": manifest.get("layers") or model["layers"], "scope": model["scope"]}
    settings |= {"routing_dtype": model.get("routing_dtype", "float32"), "peft": _with_named_table(model.get("peft"))}
    known = BaseModel(**{key: value for key, value in model["base"].items() if key in BaseModel.__dataclass_fields__})
    versions = manifest.get("versions") or environment()["versions"]
    settings |= {
        "name": manifest.get("name") or home.name,
        "base": identity_of(known, kept["base"]["fingerprint"]),
        "versions": {key: versions[key] for key in KEPT_VERSIONS if versions.get(key)},
    }
    metrics = _metrics(home, manifest) if checkpoint.name == tested_checkpoint(manifest) else []
    plain = json.loads(json.dumps(redacted(settings)))  # as a card has it once it was written: keys are words
    return RouterCard(plain, metrics, kept["state_dict"], sorted(kept.get("calibrated_on", ())))


def _with_named_table(peft: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return a LoRA's options with the name of the file its experts came from, which is read before training alone."""
    experts = (peft or {}).get("experts") or {}
    return {**(peft or {}), "experts": without_places(experts)} if experts else peft


def _refuse_readers(head: dict[str, Any]) -> None:
    for path in class_paths(head):
        hint = "--fold writes what it comes to, where a stock gate can be that."
        reads = path.rpartition(".")[2] in READ
        require(not reads, "a head whose tensors are all there is to it", path, "model.head", hint)


def class_paths(value: Any) -> Iterator[str]:
    """Yield the class paths within a configuration, at any depth."""
    if isinstance(value, dict):
        if isinstance(value.get("class_path"), str):
            yield value["class_path"]
        value = list(value.values())
    if isinstance(value, list):
        for one in value:
            yield from class_paths(one)


def without_places(value: Any) -> Any:
    """Return a configuration with the paths of this machine in it reduced to their last part.

    Example:
        >>> without_places({"runs": ["/home/me/runs/nano-RetunedHead-s0-1f3cf5c6"]})
        {'runs': ['nano-RetunedHead-s0-1f3cf5c6']}
    """
    if isinstance(value, dict):
        return {key: without_places(one) for key, one in value.items()}
    if isinstance(value, list):
        return [without_places(one) for one in value]
    return Path(value).name if _is_place(value) else value


def _places(value: Any) -> Iterator[str]:
    """Yield the texts within a configuration that are paths of this machine."""
    if isinstance(value, dict | list):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _places(one)
    elif _is_place(value):
        yield value


def _is_place(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    return value.startswith(("/", "~", "./", "../")) or ("/" in value and Path(value).exists())


def _metrics(home: Path, manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Return what the run recorded of each split that the pretrained router was asked, too."""
    found = []
    data = manifest.get("data", {})
    for split in manifest.get("protocols", {}):
        source = data.get("test_sources", {}).get(split.removeprefix("test_"), data).get("source", {})
        result = paired_with_pretrained(home, split)
        if result is not None:
            found.append(
                {
                    "split": split,
                    "dataset": source.get("class"),
                    "dataset_revision": source.get("revision"),
                    "protocol": manifest["protocols"][split],
                    "n": result.n,
                    "accuracy": result.accuracy,
                    "pretrained_accuracy": result.baseline_accuracy,
                    "difference": result.diff,
                    "ci95": list(result.told_ci95),
                    "decision": result.decision,
                    "method": f"paired; {result.interval_method}",
                }
            )
    return found
