"""The runs of a folder: what each differs in from most of the others, how it did, and how old it is."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from textwrap import shorten
from typing import Any

import pandas as pd
import yaml

from moe_tune.base.errors import DataError
from moe_tune.compare.arms import defaults, flat_identity
from moe_tune.reports.table import Table, interval, words
from moe_tune.runs.answers import BASE, split_files, tested_questions_file, text_file, text_files
from moe_tune.runs.directory import RunDirectory
from moe_tune.settings.ending import paired_with_pretrained

TOLD = 4
"""Differing keys that are told of a run."""
DAMAGED = "damaged"
SAID = 60
"""Characters that are told of why a run failed."""
UNITS = ((86400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class ListedRun:
    """A run in a list.

    Attributes:
        name: Its folder.
        differs: What its configuration has that most of the listed runs have not.
        headline: Its accuracy, and the difference to the pretrained router with a 95 % interval; or its state; and
            the losses on text of one that learned from text.
        age: Time since it began.
    """

    name: str
    differs: str
    headline: str
    age: str


def listed_runs(root: Path, now: datetime | None = None) -> list[ListedRun]:
    """Return the runs of a folder, the youngest first.

    Raises:
        DataError: There is no such folder.
    """
    if not root.is_dir():
        raise DataError(f"expected a folder of runs but got {str(root)!r} (--runs_root). Hint: fit makes one.")
    found = [(one, _manifest(one)) for one in sorted(root.iterdir()) if one.is_dir() and ".old-" not in one.name]
    runs = [(path, manifest) for path, manifest in found if "status" in manifest]
    runs.sort(key=lambda pair: str(pair[1].get("started", "")), reverse=True)
    values = [{"seed": manifest.get("seed")} | flat_identity(_config(path)) for path, manifest in runs]
    usual = {key: Counter(str(one.get(key)) for one in values).most_common(1)[0][0] for one in values for key in one}
    names = _names(usual)
    return [
        ListedRun(
            path.name, _differs(own, usual, names), _headline(path, manifest), _age(manifest, now or datetime.now(UTC))
        )
        for (path, manifest), own in zip(runs, values, strict=True)
    ]


def as_table(runs: list[ListedRun]) -> Table:
    """Return a list of runs as a table."""
    columns = {key: [asdict(one)[key] for one in runs] for key in ("name", "differs", "headline", "age")}
    headers = {"name": "run", "differs": "differs in", "headline": "accuracy, against the pretrained router"}
    return Table([words(headers.get(key, key), texts) for key, texts in columns.items()])


def _manifest(path: Path) -> dict[str, Any]:
    try:
        return RunDirectory(path).manifest
    except DataError:
        return {"status": DAMAGED, "failure": "manifest.json"}


def _config(path: Path) -> dict[str, Any]:
    try:
        return dict(yaml.safe_load((path / "config.yaml").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return {}


def _differs(own: dict[str, Any], usual: dict[str, str], names: dict[str, str]) -> str:
    keys = [key for key in own if str(own[key]) != usual[key] and not _is_default(key, own)]
    said = [f"{names[key]}={_short(key, own[key])}" for key in keys]
    return " ".join(said[:TOLD] + ([f"and {len(said) - TOLD} more"] if len(said) > TOLD else []))


def _is_default(key: str, own: dict[str, Any]) -> bool:
    """Return whether an argument is what its class has anyway; one run's class may have arguments others lack."""
    owner, inside, name = key.rpartition(".init_args.")
    return bool(inside) and defaults(str(own.get(f"{owner}.class_path"))).get(name, ...) == own[key]


def _names(keys: Iterable[str]) -> dict[str, str]:
    """Return the shortest ending of every key that no other key shares.

    Example:
        >>> _names(["model.base.init_args.path", "data.text.source.init_args.path", "optimizer.init_args.lr"]).values()
        dict_values(['base.path', 'text.path', 'lr'])
    """
    parts = {key: _parts(key) for key in keys}
    distinct = {tuple(one) for one in parts.values()}  # a class and its empty arguments are one
    sharing = Counter(one[-size:] for one in distinct for size in range(1, len(one) + 1))
    return {
        key: ".".join(next((one[-size:] for size in range(1, len(one)) if sharing[tuple(one[-size:])] == 1), one))
        for key, one in parts.items()
    }


def _parts(key: str) -> list[str]:
    # What a text or a quiz is read from says less than which of them it is.
    return key.replace(".init_args", "").removesuffix(".class_path").replace(".source.", ".").split(".")


def _short(key: str, value: Any) -> str:
    return str(value).rpartition(".")[2] if key.endswith(".class_path") else str(value)


def _headline(path: Path, manifest: dict[str, Any]) -> str:
    if manifest["status"] == DAMAGED:
        return _state(manifest)
    try:
        return "; ".join([_accuracy(path, manifest), *_text_losses(path)])
    except (OSError, ValueError, KeyError) as fault:  # a table that was cut, or is none
        return _state({"status": DAMAGED, "failure": fault})


def _text_losses(path: Path) -> list[str]:
    """Return the loss on each text that a run which learned from text was tested on, or else on what it held out."""
    if (_config(path).get("model") or {}).get("task", "quiz") == "quiz":
        return []
    told = []
    for file in text_files(path) or [text_file(path, "validation")]:
        losses = [_loss(one) for one in (file, text_file(path, file.stem, BASE)) if one.is_file()]
        if len(losses) == 2:
            told.append(f"text {file.stem} loss {losses[0]:.4f}, pretrained {losses[1]:.4f}")
    return told


def _loss(file: Path) -> float:
    frame = pd.read_parquet(file, columns=["tokens", "loss"])
    return float((frame["loss"] * frame["tokens"]).sum() / frame["tokens"].sum())


def _accuracy(path: Path, manifest: dict[str, Any]) -> str:
    splits = [file.stem for file in split_files(path)]
    split = "test" if "test" in splits else "validation"
    if split not in splits:
        return _state(manifest)
    state = "" if manifest["status"] in ("finished", "evaluated") else f" ({_state(manifest)})"
    result = paired_with_pretrained(path, split)
    if result is not None:
        ends = interval(*result.told_ci95, "+.1f")
        return f"{split} {100 * result.accuracy:.1f} %, {100 * result.diff:+.1f} {ends}{state}"
    frame = pd.read_parquet(tested_questions_file(path, split), columns=["gold", "prediction"])
    return f"{split} {100 * (frame['gold'] == frame['prediction']).mean():.1f} %{state}"


def _state(manifest: dict[str, Any]) -> str:
    failure = manifest.get("failure")
    return f"{manifest['status']}: {shorten(str(failure), SAID)}" if failure else str(manifest["status"])


def _age(manifest: dict[str, Any], now: datetime) -> str:
    try:
        seconds = max(0, int((now - datetime.fromisoformat(manifest["started"])).total_seconds()))
    except (KeyError, TypeError, ValueError):
        return ""
    size, unit = next(((size, unit) for size, unit in UNITS if seconds >= size), UNITS[-1])
    return f"{seconds // size} {unit}"
