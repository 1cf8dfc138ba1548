"""Which run directory a command works in, and from where in it the verb starts."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.checkpoint_folder import CONFIG, MANIFEST, sha256_of
from moe_tune.base.errors import require
from moe_tune.base.redact import redacted
from moe_tune.base.strict_yaml import load_yaml
from moe_tune.runs.agent import own_folder, sweep_id
from moe_tune.runs.checkpoint import intact, seen_by
from moe_tune.runs.directory import NOT_IDENTITY, RunDirectory, identity, without_later
from moe_tune.settings.command import Command
from moe_tune.settings.config_files import config_label, differences
from moe_tune.settings.run_name import said, standing
from moe_tune.settings.taken import taken


@dataclass(frozen=True, slots=True)
class Place:
    """Where a command works.

    Attributes:
        directory: The run directory.
        resolved: The complete configuration, without secrets.
        theirs: Whether it is an evaluation that belongs into the directory of the fit whose checkpoint it reads.
    """

    directory: RunDirectory
    resolved: dict[str, Any]
    theirs: bool = False


def place_of(command: Command) -> Place:
    """Return where a command works; nothing is written.

    Raises:
        ConfigError: The folder of all runs cannot be written to.
    """
    settings, config = command.settings, command.configuration
    resolved = redacted(config)
    head = str(config["model"]["head"]["class_path"]).rpartition(".")[2]
    # An edited plug-in makes another run.
    asked = {**config, "plugins": command.plugins} if command.plugins else config
    label = settings.name or config_label(command.argv)
    of_config = RunDirectory.of(Path(settings.runs_root), label, head, int(config["seed_everything"]), asked)
    words = "" if settings.name or sweep_id() else said(command.argv)  # an agent's id says it
    path = standing(own_folder(of_config.path), f"{label}-{head}", words)
    checkpoint = settings.get("ckpt_path")
    if command.subcommand == "fit":
        if checkpoint and not _within(checkpoint, path):  # what it begins with makes another run
            _refuse_another_optimizer(load_yaml(Path(checkpoint) / CONFIG), resolved)
            path = path.with_name(f"{path.name}-from-{sha256_of(Path(checkpoint) / MANIFEST)[:8]}")
        return Place(RunDirectory(path), resolved)
    if checkpoint and Path(checkpoint).parent.name == "checkpoints":
        fitted = RunDirectory(Path(checkpoint).parent.parent)
        stored = load_yaml(Path(checkpoint) / CONFIG)
        theirs, ours = taken(stored), taken(resolved)
        for line in differences(_of_the_run(theirs), _of_the_run(ours)):
            rank_zero_info(f"not as in the checkpoint: {line}")
        # The fit's own directory takes only what its manifest describes.
        tested = Path(fitted.manifest.get("tested_checkpoint", checkpoint)).name
        same_code = sorted(fitted.manifest.get("plugins", {}).values()) == sorted(command.plugins.values())
        same_run = same_code and identity(theirs) == identity(ours)
        if same_run and (command.subcommand == "predict" or tested in ("last", Path(checkpoint).name)):
            return Place(fitted, resolved, theirs=True)
        changed = "" if same_run else f"-{identity(resolved)}"
        path = path.with_name(f"{fitted.path.name}-{Path(checkpoint).stem}{changed}")
    return Place(RunDirectory(path.with_name(f"{path.name}-{command.subcommand}")), resolved)


def _within(checkpoint: str, directory: Path) -> bool:
    return directory.resolve() in Path(checkpoint).resolve().parents


def _refuse_another_optimizer(stored: dict[str, Any], config: dict[str, Any]) -> None:
    """Refuse an optimiser other than the checkpoint's, whose state, learning rate included, would count instead."""
    theirs, ours = ({key: one.get(key) for key in ("optimizer", "lr_scheduler")} for one in (stored, config))
    other = "; ".join(differences(theirs, ours))
    hint = "say the same as the fit of the checkpoint did."
    require(not other, "the optimiser of the checkpoint, whose state goes on,", other, "--ckpt_path of fit", hint)


def _of_the_run(config: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in without_later(config).items() if key not in NOT_IDENTITY}


@dataclass(frozen=True, slots=True)
class Start:
    """From where a verb starts.

    Attributes:
        checkpoint: What is loaded first.
        resumed: Optimiser steps that an earlier process of the same run has done, and its validations if it counted
            them; ``None`` where it does not go on.
        anew: Whether what lies in the directory has to make room.
    """

    checkpoint: str | None
    resumed: tuple[int, int | None] | None = None
    anew: bool = False


def start_of(command: Command, place: Place) -> Start | None:
    """Return from where the verb starts by what lies in its directory; ``None`` if the same fit has ended there.

    Raises:
        ConfigError: A fit starts anew from a checkpoint of the run that it replaces.
    """
    settings, directory = command.settings, place.directory
    checkpoint = settings.get("ckpt_path")
    if command.subcommand != "fit":
        return Start(checkpoint, anew=not place.theirs)
    if directory.is_finished and not settings.fresh:
        return None
    own = checkpoint is not None and _within(checkpoint, directory.path)
    if not own and not settings.fresh and (kept := intact(directory.last_checkpoints)) is not None:
        return Start(str(kept), resumed=seen_by(kept))
    outside = not (own and settings.fresh)
    asked = "a checkpoint outside the run that is made afresh"
    require(outside, asked, checkpoint, "fresh, ckpt_path", "leave one of them out.")
    return Start(checkpoint, anew=not own)
