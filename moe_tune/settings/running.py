"""Running a command: its directory, the objects of its settings, the verb, and the record of how it ended."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from lightning.pytorch import Callback, Trainer, seed_everything
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import instantiate_class
from lightning.pytorch.utilities.exceptions import MisconfigurationException
from lightning.pytorch.utilities.rank_zero import rank_zero_info, rank_zero_only, rank_zero_warn

from moe_tune.base.errors import ConfigError, MoeTuneError
from moe_tune.base.plugins import TRUST
from moe_tune.base.preemption import Preempted, asked, in_place_of_signal
from moe_tune.base.published import require_writable
from moe_tune.base.trusted import is_trusting
from moe_tune.callbacks.route_records import RouteRecords
from moe_tune.data.module import QuizDataModule
from moe_tune.data.revisions import revisions
from moe_tune.runs.agent import record_end, stopped_by_sweep
from moe_tune.runs.directory import RunDirectory
from moe_tune.runs.ledger import require_ledger
from moe_tune.runs.metrics_file import MetricsFile
from moe_tune.runs.requeue import requeue
from moe_tune.runs.saturation import saturated_layers
from moe_tune.settings.command import Command
from moe_tune.settings.ending import against_pretrained, fit_ending, tell
from moe_tune.settings.lost_processes import lost_processes_told
from moe_tune.settings.place import Place, Start, place_of, start_of
from moe_tune.settings.quiet import quieten
from moe_tune.settings.refusals import refuse_idle_losses, refuse_missing_text
from moe_tune.settings.run_trainer import placed_loggers, run_trainer
from moe_tune.settings.same_data import refuse_changed_data
from moe_tune.settings.workbench import Workbench
from moe_tune.tracking.wandb_logger import close_wandb_run
from moe_tune.tuner.router_tuner import RouterTuner


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of a command.

    Attributes:
        path: Its run directory.
        before: Whether the same fit had ended there before, and nothing was run.
    """

    path: Path
    before: bool = False


def run(
    argv: list[str],
    plugins: dict[str, str] | None = None,
    workbench: Workbench | None = None,
    watchers: Sequence[Callback] = (),
) -> Ran:
    """Run one of Lightning's verbs.

    Args:
        argv: The verb and its arguments.
        plugins: sha256 of the user's plug-in files, by path.
        workbench: What the runs of this process share; ``None`` shares nothing.
        watchers: Further callbacks, called after all others.

    Raises:
        MoeTuneError: What the user can mend: an argument, a checkpoint, the data, the trainer.
    """
    quieten()
    command = Command(argv, plugins)
    place = place_of(command)
    with _taken(command, place) as start:
        if start is None:
            _refuse_another_fit(command, place)
        else:
            _refuse_a_closed_test(command)
            model, data, trainer = _made(command, place, workbench, watchers)
            if place.theirs or start.resumed is not None:
                refuse_changed_data(place.directory, revisions(data))
            with lost_processes_told(trainer):
                _carry_out(command, place, model, data, trainer, start.checkpoint)
    return Ran(place.directory.path, before=start is None)


def _carry_out(
    command: Command, place: Place, model: RouterTuner, data: QuizDataModule, trainer: Trainer, checkpoint: str | None
) -> None:
    if command.subcommand == "fit":
        _fit(command, place, model, data, trainer, checkpoint)
        return
    if checkpoint is None and model.trains:
        rank_zero_info(f"no --ckpt_path: {type(model.head).__name__} is evaluated as it begins, before any training")
    _evaluate(command.subcommand, model, data, trainer, checkpoint)
    if command.subcommand in ("validate", "test"):
        tell(against_pretrained(place.directory.path, list(model.results)))
    if place.directory.manifest.get("status") == "started":
        place.directory.update_manifest(status="evaluated", checkpoint=checkpoint)


def _refuse_another_fit(command: Command, place: Place) -> None:
    """Refuse to call a fit complete whose data has changed since."""
    try:
        now = revisions(command.made(logger=False, callbacks=None, plugins=None, profiler=None).data)
    except MoeTuneError:  # what it was made of is not there any more
        return
    refuse_changed_data(place.directory, now)


def _refuse_a_closed_test(command: Command) -> None:
    """Refuse to begin where a test would be read that the ledger cannot record, or that is only tried."""
    settings = command.settings
    reads = {"fit": settings.get("test_after_fit"), "test": True, "predict": True}
    if not reads.get(str(command.subcommand)):
        return
    if settings.trainer.fast_dev_run:
        if command.subcommand == "fit":  # it ends before its test
            return
        raise ConfigError(
            f"expected all questions of a test but got fast_dev_run, which reads a few (trainer.fast_dev_run of "
            f"{command.subcommand}). Hint: try it on the validation split: `validate`."
        )
    if not rank_zero_only.rank:
        require_ledger()


@contextmanager
def _taken(command: Command, place: Place) -> Iterator[Start | None]:
    """Hold the run directory while the verb runs, and leave it and W&B saying how the run ended.

    What an earlier run of the same name left is put aside until the new one has begun.
    """
    directory = place.directory.claimed()
    aside: Path | None = None
    failed = True
    try:
        start = start_of(command, place)
        if start is not None and start.resumed is not None:
            if not rank_zero_only.rank:
                MetricsFile(directory.path).forget_from(*start.resumed)
                directory.forget_failure()
            rank_zero_info(f"resuming {directory.path} from {start.checkpoint} at step {start.resumed[0]}")
        if start is not None and start.anew:
            aside = directory.set_aside()
        with _failure_noted(directory):
            yield start
        failed = False
    except SystemExit as end:
        if not stopped_by_sweep(end):
            if isinstance(end, Preempted):
                requeue(end)
            elif type(end) is SystemExit and not isinstance(end.__context__, KeyboardInterrupt):
                if directory.manifest:
                    directory.update_manifest(status="failed")
                raise MoeTuneError(
                    f"expected the run to end by itself but something called sys.exit({end.code!r}). "
                    "Hint: a callback or plug-in; raise an error there instead. The same command resumes."
                ) from end
            raise
        failed = False  # for W&B too: a sweep that stops a run has not found a fault in it
        record_end(directory, early=True)
    except MisconfigurationException as fault:
        raise ConfigError(f"expected a trainer that can run here but got: {' '.join(str(fault).split())}") from fault
    finally:
        close_wandb_run(failed, directory.path if command.subcommand == "fit" else None)
        directory.settle(aside)


@contextmanager
def _failure_noted(directory: RunDirectory) -> Iterator[None]:
    # A kill or an interrupt is no fault of the run: it stays as it has begun.
    try:
        yield
    except Exception as fault:
        if in_place_of_signal(fault):
            raise Preempted(str(asked())) from fault
        directory.note_failure(fault)
        raise


def _made(
    command: Command, place: Place, workbench: Workbench | None, watchers: Sequence[Callback]
) -> tuple[RouterTuner, QuizDataModule, Trainer]:
    settings = command.settings
    # Lightning hands these to the processes it starts.
    trust = [TRUST] if is_trusting() else []
    sys.argv = ["moe_tune", *trust, *(f"--plugins={path}" for path in command.plugins), *command.argv]
    if settings.seed_everything is not False:
        seed_everything(settings.seed_everything, workers=True)
    made = command.made(logger=placed_loggers(settings.trainer.logger, place.directory.path))
    model, data = made.model, made.data
    if command.subcommand == "fit":
        refuse_missing_text(model, data)
    if workbench is not None:
        workbench.begin(model)
        model.base = workbench.base(model.base)
        data = workbench.quiz(command.configuration["data"], data)
    if made.optimizer:
        model.make_optimizer = partial(instantiate_class, init=made.optimizer)
    if made.lr_scheduler:
        model.make_scheduler = partial(instantiate_class, init=made.lr_scheduler)
    name = settings.name or type(model.head).__name__
    if routes := settings.get("routes"):
        file = Path(routes)
        require_writable(file.parent, "a folder to write to", "--routes", "--routes FOLDER/routes.parquet.")
        model.whole_prompts = True
        watchers = [*watchers, RouteRecords(file)]
    known = () if workbench is None else (workbench.base_answers, workbench.base_beside)
    trainer = run_trainer(made.trainer, place, name, command.plugins, watchers, command.checkpoint_every, *known)
    return model, data, trainer


@contextmanager
def _told_interval() -> Iterator[None]:
    """Tell of the one setting that Lightning refuses only when the questions are counted."""
    try:
        yield
    except ValueError as fault:
        if not str(fault).startswith("`val_check_interval`"):
            raise
        raise ConfigError(
            f"expected at most the batches of an epoch but got: {' '.join(str(fault).split())[:300]} "
            "(trainer.val_check_interval). Hint: 1.0 is each epoch."
        ) from fault


def _fit(
    command: Command, place: Place, model: RouterTuner, data: QuizDataModule, trainer: Trainer, checkpoint: str | None
) -> None:
    """Train, or calibrate and evaluate a head with nothing to train; then test once if asked for."""
    if model.trains:
        with _told_interval():
            trainer.fit(model, datamodule=data, ckpt_path=checkpoint, weights_only=True)
    else:
        refuse_idle_losses(model)
        _evaluate("validate", model, data, trainer, None)
        trainer.save_checkpoint(place.directory.path / "checkpoints" / "last.ckpt")
    if trainer.interrupted:
        return
    if trainer.fast_dev_run:
        place.directory.update_manifest(status="tried")
        rank_zero_info("fast_dev_run: a few batches only, no test, no checkpoint")
        return
    if model.trains and (layers := saturated_layers(place.directory.path, list(model.gated.layers))):
        place.directory.update_manifest(saturated=True)
        rank_zero_warn(
            f"saturated: the routers of layers {', '.join(map(str, layers))} put all probability on one expert and "
            "have no gradient left. Hint: a smaller --optimizer.lr."
        )
    callback = trainer.checkpoint_callback
    best = str(callback.best_model_path) or None if isinstance(callback, ModelCheckpoint) else None
    if command.settings.test_after_fit:
        _evaluate("test", model, data, trainer, best)
    begun = {"started_from": checkpoint} if (checkpoint := command.settings.get("ckpt_path")) else {}
    place.directory.update_manifest(status="finished", tested_checkpoint=best or "last", **begun)
    record_end(place.directory, early=False)
    tell(fit_ending(place.directory.path, trained=model.trains, tests=data.test_names))


def _evaluate(
    verb: str | None, model: RouterTuner, data: QuizDataModule, trainer: Trainer, checkpoint: str | None
) -> None:
    # The numbers are printed by the callbacks, not as Lightning's table.
    if checkpoint is not None or model.head.traits.needs_calibration:
        data.split_alone()
    unsaid = {"return_predictions": False} if verb == "predict" else {"verbose": False}
    evaluate = getattr(trainer, str(verb))
    evaluate(model, datamodule=data, ckpt_path=checkpoint, weights_only=True, **unsaid)
