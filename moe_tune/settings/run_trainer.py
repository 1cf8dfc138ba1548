"""The trainer of a run: the configured one, with this project's checkpoints, records and metrics file."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jsonargparse import Namespace
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint

from moe_tune.base.errors import ConfigError
from moe_tune.callbacks.base_answers import Known
from moe_tune.callbacks.base_reference import BaseReference
from moe_tune.callbacks.beside_records import KnownBeside
from moe_tune.callbacks.block_records import BlockRecords
from moe_tune.callbacks.epoch_line import EpochLine, progress_bar
from moe_tune.callbacks.evidence_log import EvidenceLog
from moe_tune.callbacks.freezing_proof import FreezingProof
from moe_tune.callbacks.question_records import PredictionRecords, QuestionRecords
from moe_tune.callbacks.resource_watch import ResourceWatch
from moe_tune.callbacks.run_files import RunFiles
from moe_tune.callbacks.short_answer_records import ShortAnswerRecords
from moe_tune.callbacks.step_checkpoints import StepCheckpoints
from moe_tune.callbacks.tested_validation import TestedValidation
from moe_tune.callbacks.text_records import TextRecords
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.runs.directory import to_yaml
from moe_tune.runs.metrics_file import MetricsFile
from moe_tune.settings.checkpoint_every import CheckpointEvery
from moe_tune.settings.place import Place
from moe_tune.settings.refusals import SeenByValidation, refuse_sharding
from moe_tune.settings.refused_callbacks import refuse_averaging


def run_trainer(
    settings: Namespace,
    place: Place,
    name: str,
    plugins: dict[str, str],
    watchers: Sequence[Callback],
    every: CheckpointEvery,
    known: Known | None = None,
    known_beside: KnownBeside | None = None,
) -> Trainer:
    """Return the trainer of a run from its settings, whose loggers and callbacks are made."""
    directory, resolved = place.directory, place.resolved
    chosen = settings.callbacks or []
    chosen = list(chosen) if isinstance(chosen, list) else [chosen]
    bar, shown = progress_bar(chosen, settings.enable_progress_bar)
    tested = TestedValidation(directory)
    callbacks = [
        RunFiles(directory, resolved, name, plugins),
        ResourceWatch(directory),
        FreezingProof(directory),
        QuestionRecords(directory),
        PredictionRecords(directory),
        BaseReference(directory, known),
        BlockRecords(directory),
        TextRecords(directory, known_beside),
        ShortAnswerRecords(directory, known_beside),
        tested,
        EpochLine(directory),
    ]
    options = {
        "callbacks": [*chosen, *bar],
        "enable_progress_bar": shown,
        "plugins": [*(settings.plugins or []), RouterCheckpointIO(lambda: to_yaml(resolved))],
        "default_root_dir": str(directory.path),
    }
    try:
        trainer = Trainer(**{**settings, **options})
    except (ValueError, TypeError, ImportError) as fault:
        raise ConfigError(
            f"expected settings that Lightning's trainer takes but got: {' '.join(str(fault).split())[:300]} "
            "(trainer). Hint: python -m moe_tune fit --help-all explains all keys."
        ) from fault
    if not any(isinstance(callback, EvidenceLog) for callback in trainer.callbacks):
        callbacks.append(EvidenceLog())
    if trainer.loggers and not any(isinstance(callback, LearningRateMonitor) for callback in trainer.callbacks):
        callbacks.append(LearningRateMonitor(logging_interval="step"))
    if resolved.get("test_after_fit"):
        callbacks.insert(0, SeenByValidation())  # before anything is asked
    trainer.callbacks[:0] = callbacks
    trainer.callbacks += watchers
    trainer.callbacks.append(
        StepCheckpoints(directory.path / "checkpoints", every.minutes, every.steps, tested.on_train_end)
    )
    for callback in trainer.checkpoint_callbacks:
        if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
            callback.dirpath = str(directory.path / "checkpoints")
    refuse_sharding(trainer)
    refuse_averaging(trainer)
    directory.path.mkdir(parents=True, exist_ok=True)  # W&B goes elsewhere if its folder does not exist
    trainer.loggers = [*trainer.loggers, MetricsFile(directory.path)]
    return trainer


def placed_loggers(loggers: Any, folder: Path) -> Any:
    """Return the loggers' settings; those without a folder of their own write into the run directory."""
    if isinstance(loggers, list):
        return [placed_loggers(one, folder) for one in loggers]
    if "init_args" not in (loggers if isinstance(loggers, Namespace) else ()):
        return loggers
    placed = loggers.clone()
    arguments = placed.init_args
    if "save_dir" in arguments and arguments.save_dir in (None, "."):
        arguments.save_dir = str(folder)
    if arguments.get("name", "") is None:
        arguments.name = folder.name
    return placed
