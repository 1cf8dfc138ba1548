"""Other models that an experiment is run on as well: overlays put after its base, and the recipe that makes a model."""

import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from moe_tune.base.errors import ModelError, did_you_mean
from moe_tune.base.published import published
from moe_tune.models.base_model import MADE, made_models
from moe_tune.runs.directory import identity
from moe_tune.studies.experiment_words import fault, found, require_short_name, settings_of

KEYS = ("make", "overlays")
FORM = "other-seed: {make: experiments/nano_olmoe/pretrain.py --seed 2}"
FULL = "full"
"""Folder of the comparison of the arms that only ``--full`` runs; that of the others is the same without it."""


@dataclass(frozen=True, slots=True)
class OtherModel:
    """A model beside that of the base.

    Attributes:
        overlays: Files and ``key=value`` texts that are put after the base, the path of a model that is made first.
        make: Script and arguments that make it, given ``--out FOLDER``; empty for a model that is there.
        folder: Where a model that is made lies; ``None`` for one that is there.
    """

    overlays: list[str]
    make: tuple[str, ...] = ()
    folder: Path | None = None

    def made(self) -> None:
        """Make the model, unless it is there; what is half made is never kept.

        Raises:
            ModelError: The script failed, or left no model.
        """
        if self.folder is None or (self.folder / "config.json").is_file():
            return
        with published(self.folder) as draft:
            words = [sys.executable, *self.make, "--out", str(draft)]
            code = subprocess.run(words, check=False).returncode
            if code or not (draft / "config.json").is_file():
                raise ModelError(
                    f"expected a model's folder but got {f'exit code {code}' if code else 'no config.json'} "
                    f"({shlex.join(self.make)} --out FOLDER). Hint: what the script says stands above."
                )


def read_models(file: Path, models: Any) -> dict[str, OtherModel]:
    """Return what ``models:`` says, by name.

    Raises:
        ConfigError: It is not of the form, or a file is missing.
    """
    if not isinstance(models, dict) or not all(isinstance(name, str) for name in models):
        raise fault(file, "names with overlays for 'models'", repr(models), FORM)
    return {name: _model(file, name, given) for name, given in models.items()}


def made_name(name: str, make: str) -> str:
    """Return the name of a model that is made, such as ``other-seed-0123abcd``: another for another ``make``."""
    return f"{name}-{identity({'make': shlex.split(make)})}"


def _model(file: Path, name: str, given: Any) -> OtherModel:
    place = f"models.{name}"
    require_short_name(file, "models", name)
    if name.startswith("against_") or name == FULL or "." in name:
        hint = f"against_NAME are those of also_against, {FULL} is that of full_arms, and files have a dot."
        raise fault(file, "a name of no folder in results/", repr(name), hint)
    values = given if isinstance(given, dict) else {"overlays": given}
    for key in values:
        if key not in KEYS:
            raise fault(file, f"known keys in {place}", repr(key), did_you_mean(str(key), KEYS))
    overlays = settings_of(file, f"{place}.overlays" if values is given else place, values.get("overlays"))
    make = values.get("make")
    if make is None:
        if not overlays:
            raise fault(file, f"what makes {place} another model", "nothing", f"model.base.path=..., or {FORM}")
        return OtherModel(overlays)
    words = _words(file, f"{place}.make", make)
    called = made_name(name, make)
    script = (found(file, words[0], "a script"), *words[1:])
    return OtherModel([f"model.base.path={MADE}{called}", *overlays], script, made_models() / called)


def _words(file: Path, place: str, make: Any) -> list[str]:
    try:
        words = shlex.split(make) if isinstance(make, str) else []
    except ValueError as problem:
        raise fault(file, f"a script and its arguments for {place}", f"{make!r}: {problem}", FORM) from problem
    if not words or not words[0].endswith(".py"):
        raise fault(file, f"a script and its arguments for {place}", repr(make), FORM)
    if any(word.partition("=")[0] == "--out" for word in words):
        raise fault(file, f"no --out in {place}", repr(make), "leave it out: a folder of the cache is put there.")
    return words
