"""The W&B logger: offline unless someone is logged in, never asking, never stopping a run."""

import logging
import netrc
import os
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit
from weakref import WeakValueDictionary

from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from moe_tune.base.errors import ConfigError, did_you_mean, require
from moe_tune.base.plugins import without_plugins, without_trust
from moe_tune.base.redact import redacted
from moe_tune.runs.agent import sweep_id
from moe_tune.runs.best_epoch import validation_summary
from moe_tune.stats.paired import PairedResult
from moe_tune.tracking.patience import end_service, refused_by_server, within
from moe_tune.tracking.wandb_content import (
    EXTREMES,
    arm_of,
    curves_and_level,
    extremes,
    gains,
    improved,
    table_parts,
    tags_of,
)
from moe_tune.tracking.wandb_head import send_head

logger = logging.getLogger(__name__)

METRICS = "metrics.jsonl"
VERBS = ("fit", "validate", "test", "predict")
"""The verbs that log by themselves; each is the job type of its runs."""
MODES = {"online": "online", "run": "online", "offline": "offline", "dryrun": "offline", "disabled": "disabled"}
"""What ``WANDB_MODE`` may say, older words included."""
RESUMES = ("allow", "must", "never", "auto")
LONGEST_PROJECT, LONGEST_TAG = 128, 64
NOT_IN_PROJECT = "/\\#?%:"
INIT_SECONDS = 8.0
"""How long a server may take to answer at the start, so that an outage costs ten seconds with all that comes after;
``WANDB_INIT_TIMEOUT`` says otherwise."""
FINISH_SECONDS = 16.0
"""How long the last upload may take, what is left stays on disk for ``wandb sync``; ``WANDB_FINISH_TIMEOUT`` says
otherwise."""
ANSWER_SECONDS = 8.0
"""How long one call may wait for the server or the service process; with the last upload and the end of the service
process it is less than half a minute by which an outage can hold the end of a fit."""
SPARE_SECONDS = 2.0
"""How much longer than the last upload may take the service process is waited for."""


class RouterWandbLogger(WandbLogger):
    """Logs to Weights & Biases without ever asking for a login or stopping a run.

    ``WANDB_MODE`` decides if it is set; without it a run is online if there is a key, else offline. A server that does
    not answer costs at most ten seconds, then the run is logged offline and sent later with ``wandb sync``.

    A run's job type is its verb, ``WANDB_JOB_TYPE`` says otherwise. The summary has every number of a fit's validation
    at the epoch of the best checkpoint, by which ``sweep`` chooses, too, and under ``last/`` at the last epoch; the
    best of its accuracy and loss; the gain over the pretrained router with its 95 % interval; and of every other number
    the last value. Neither code nor the command line is stored; the machine's load and memory are. A finished fit
    leaves its head as an artifact of the run directory's name, and charts of accuracy and loss with the pretrained
    router's level in them. A fit that goes on is the same run where it was online; offline each part is a run of its
    own, in one group.

    Args:
        project: W&B project, one per study.
        name: Display name of the run; ``null`` takes the run directory's.
        save_dir: Where files go; ``null`` takes the run directory.
        group: Runs that belong together, such as an experiment's name; ``null`` takes ``WANDB_RUN_GROUP``, else an
            agent's sweep, else configuration and head, so that seeds are beside each other.
        tags: Words to find the run by; those of head, losses, scope and base model follow them.
        resume: How a run of the same id is continued.

    Raises:
        ConfigError: An argument, or a ``WANDB_*`` variable of the environment, has a fault.
    """

    def __init__(
        self,
        project: str = "moe_tune",
        name: str | None = None,
        save_dir: str | None = None,
        group: str | None = None,
        tags: list[str] | None = None,
        resume: str = "allow",
    ) -> None:
        refuse_words({"project": project, "tags": tags, "resume": resume}, "RouterWandbLogger")
        self._mode = wandb_mode()
        self._outage = False
        self._hangs = False
        if self._mode == "offline" and MODES.get(os.environ.get("WANDB_MODE", "")) == "online":
            _warn("WANDB_MODE=online but no W&B key, continuing offline. Hint: wandb login, or set WANDB_API_KEY.")
        # Not offline=True: Lightning would set WANDB_MODE for every later run of the process.
        super().__init__(
            save_dir=save_dir,
            id=begun_online(save_dir) if self._mode == "online" and _verb() == "fit" else None,
            resume=resume,
            settings=_settings(self._mode),
            **redacted({"name": name, "project": project, "group": group or _group(save_dir), "tags": tags}),
            job_type=os.environ.get("WANDB_JOB_TYPE") or _verb(),
        )
        # Lightning passes it although wandb 0.31 only answers it with a warning.
        self._wandb_init.pop("anonymous")

    def as_job(self, job_type: str) -> Self:
        """Say what kind of work the run is, before it begins; ``WANDB_JOB_TYPE`` wins."""
        self._wandb_init["job_type"] = os.environ.get("WANDB_JOB_TYPE") or job_type
        return self

    @property
    @rank_zero_experiment  # type: ignore[untyped-decorator]
    def experiment(self) -> Any:
        """The W&B run; offline if the server cannot be reached."""
        import wandb

        begun = time.monotonic()
        try:
            if wandb.run is None:  # what wandb says beside a run goes by the process's settings
                wandb.setup(settings=wandb.Settings(silent=True))
            return super().experiment
        except _faults() as fault:
            if self._mode == "disabled":
                raise
            lost = f"after {time.monotonic() - begun:.1f} s ({_one_line(fault)})"
            remedies = {
                "online": ("offline", f"unreachable, continuing offline {lost}. Hint: wandb sync sends the run later."),
                "offline": ("disabled", f"cannot write here, continuing without it {lost}"),
            }
            self._mode, words = remedies[self._mode]
            _warn(f"W&B {words}")
            self._wandb_init["settings"] = _settings(self._mode)
            return self.experiment

    def log_metrics(self, metrics: Any, step: int | None = None) -> None:
        """Log numbers, and keep the best ones in the summary; a fault of W&B becomes one warning."""
        log = super().log_metrics

        def work() -> None:
            log(metrics, step)
            if not rank_zero_only.rank and EXTREMES.keys() & metrics.keys():
                self.experiment.summary.update(improved(metrics, self.experiment.summary))

        self._harmless(work)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Put the best epoch's numbers back into the summary, where those of the one just logged took their place."""
        super().after_save_checkpoint(checkpoint_callback)
        if (folder := self.save_dir) is not None:  # where files go elsewhere, the end of the run does it
            self._harmless(lambda: self.experiment.summary.update(validation_summary(Path(folder))))

    def log_hyperparams(self, params: Any) -> None:
        """Log the configuration, and tag the run with what it says; a fault of W&B becomes one warning."""
        log = super().log_hyperparams

        def work() -> None:
            log(params)
            if not rank_zero_only.rank:
                own = tuple(self.experiment.tags or ())
                self.experiment.tags = tuple(dict.fromkeys([*own, *tags_of(dict(params))]))

        self._harmless(work)

    def log_table(self, key: str, *args: Any, dataframe: Any = None, **kwargs: Any) -> None:
        """Log a table, in parts where W&B would cut it; a fault of W&B becomes one warning, and ends the tables.

        Each asks the server first, and what it holds is in the run directory.
        """
        log = super().log_table
        parts = {key: None} if dataframe is None else table_parts(key, dataframe)

        def work() -> None:
            for name, part in parts.items():
                log(name, *args, dataframe=part, **kwargs)

        if not self._outage:
            self._harmless(work, asks_server=True)

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        """Log images; a fault of W&B becomes one warning."""
        log = super().log_image
        self._harmless(lambda: log(key, images, step, **kwargs))

    def _harmless(self, work: Callable[[], None], asks_server: bool = False) -> None:
        """Do what W&B may fail at: after a first fault it is told of, after a hang it is left alone."""
        if self._hangs:
            return
        run = self.experiment  # made here: its own patience is another one
        try:
            within(ANSWER_SECONDS, work)
        except _faults() as fault:
            self._hangs = isinstance(fault, TimeoutError) and not asks_server
            if not self._outage:
                self._outage = True
                told_of[id(run)] = run
                _warn(
                    f"W&B failed, the run goes on and metrics.jsonl has its numbers ({_one_line(fault)}). "
                    f"Hint: {_remedy(run)}."
                )


told_of: "WeakValueDictionary[int, Any]" = WeakValueDictionary()
"""W&B runs of whose faults there has been a warning, by their id as objects: there shall be one."""


def refuse_words(given: Mapping[str, Any], where: str) -> None:
    """Refuse a project, tags or a way to resume that W&B's server would not take.

    Args:
        given: The logger's arguments.
        where: The key they stand under.

    Raises:
        ConfigError: One is refused.
    """
    project, tags, resume = (given.get(key) for key in ("project", "tags", "resume"))
    odd = project is not None and (not 1 <= len(project) <= LONGEST_PROJECT or set(project) & set(NOT_IN_PROJECT))
    what = f"1 to {LONGEST_PROJECT} characters without {NOT_IN_PROJECT}"
    require(not odd, what, project, f"{where}.project", "project: moe_tune.")
    long = [tag for tag in tags or () if not 1 <= len(tag) <= LONGEST_TAG]
    require(not long, f"tags of 1 to {LONGEST_TAG} characters", long, f"{where}.tags", "tags: [pilot].")
    known = resume is None or resume in RESUMES
    require(known, "a way to resume", resume, f"{where}.resume", did_you_mean(str(resume), RESUMES))


def begun_online(save_dir: str | None) -> str | None:
    """Return the id of the W&B run that an earlier part of a fit has begun online; ``None`` if none has.

    An agent's id, which the environment says, wins.
    """
    if save_dir is None or os.environ.get("WANDB_RUN_ID"):
        return None
    parts = sorted((Path(save_dir) / "wandb").glob("run-*-*"))  # W&B's name is run-<date>_<time>-<id>
    return parts[-1].name.split("-", 2)[2] if parts else None


def wandb_mode() -> str:
    """Return ``online``, ``offline`` or ``disabled``: what ``WANDB_MODE`` asks for, online only if there is a key.

    Raises:
        ConfigError: ``WANDB_MODE`` is none of the words W&B knows.
    """
    asked = os.environ.get("WANDB_MODE") or "online"
    if asked not in MODES:
        raise ConfigError(
            f"expected {', '.join(MODES)} but got {asked!r} (environment variable WANDB_MODE). "
            "Hint: unset it, or WANDB_MODE=offline."
        )
    mode = MODES[asked]
    return "offline" if mode == "online" and not _has_key() else mode


def note_gains(compared: Mapping[str, PairedResult]) -> None:
    """Put how the heads did against the pretrained router into the summary of the process's W&B run, if it has one."""
    wandb = sys.modules.get("wandb")
    if wandb is not None and wandb.run is not None and compared:
        try:
            within(ANSWER_SECONDS, lambda: wandb.run.summary.update(gains(compared)))
        except _faults() as fault:
            if id(wandb.run) not in told_of:
                told_of[id(wandb.run)] = wandb.run
                _warn(f"W&B did not take the gain, which the run directory has ({_one_line(fault)})")


def _show_beside_pretrained(run: Any, folder: Path) -> None:
    """Log a chart for each headline number of validation: each epoch's, and the pretrained router's as a level line."""
    import wandb

    charts = {}
    for key in EXTREMES:
        if (found := curves_and_level(folder / METRICS, key)) is not None:
            steps, values, level = found
            curves = {"this run": values, "pretrained router": [level] * len(steps)}
            charts[f"{key}_and_pretrained"] = wandb.plot.line_series(
                steps, list(curves.values()), keys=list(curves), title=key, xname="trainer/global_step"
            )
    if charts:
        run.log(charts)


def close_wandb_run(failed: bool, fitted: Path | None = None) -> None:
    """End the process's W&B run, after a fit's summary and head; the next run of the process gets its own.

    Args:
        failed: Whether W&B shall show the run as failed.
        fitted: The run directory, if the run is a fit.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None or wandb.run is None:
        return
    run, lost = wandb.run, ""
    if fitted is not None and not run.disabled:
        try:
            within(ANSWER_SECONDS, lambda: _leave_results(run, fitted, failed))
        except _faults() as fault:
            why = _one_line(fault)
            lost = f"W&B did not take the head, which is in the run directory ({why}). Hint: {_remedy(run)}."
    try:
        within(_finish_seconds() + SPARE_SECONDS, lambda: wandb.finish(exit_code=int(failed)))
        if (refusal := refused_by_server(run)) is not None:
            lost = f"W&B did not take everything ({refusal}). Hint: {_remedy(run)}."
    except _faults() as fault:
        lost = f"W&B did not take everything ({_one_line(fault)}). Hint: {_remedy(run)}."
        end_service()
    if lost and id(run) not in told_of:
        _warn(lost)


def _leave_results(run: Any, fitted: Path, failed: bool) -> None:
    """Send the summary, and of a fit that ended well the charts and the head, if the server takes such things."""
    run.summary.update(validation_summary(fitted) | extremes(fitted / METRICS))
    if failed or id(run) in told_of:
        return
    if (fitted / METRICS).is_file():
        _show_beside_pretrained(run, fitted)
    send_head(run, fitted)


def _remedy(run: Any) -> str:
    # Without the option `wandb sync` takes a run that began online for one that is complete there.
    return f"wandb sync --include-online {run.settings.sync_dir} sends the rest"


def _verb() -> str | None:
    """The verb of this process, where a verb of Lightning's is run."""
    words, _ = without_plugins(without_trust(sys.argv[1:])[0])
    return words[0] if words and words[0] in VERBS else None


def _group(save_dir: str | None) -> str | None:
    arm = arm_of(Path(save_dir).name) if save_dir and _verb() else None
    return os.environ.get("WANDB_RUN_GROUP") or sweep_id() or arm


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlsplit(os.environ.get("WANDB_BASE_URL") or "https://api.wandb.ai").netloc
    try:
        return bool(netrc.netrc(Path(os.environ.get("NETRC", "~/.netrc")).expanduser()).authenticators(host))
    except (OSError, netrc.NetrcParseError):
        return False


def _settings(mode: str) -> Any:
    import wandb

    try:
        # wandb reads the environment only when a run starts, and a fault there would end in a traceback.
        wandb.Settings().update_from_env_vars(os.environ)
        return wandb.Settings(
            mode=mode,
            init_timeout=float(os.environ.get("WANDB_INIT_TIMEOUT", INIT_SECONDS)),
            finish_timeout=_finish_seconds(),
            finish_timeout_raises=True,
            save_code=False,
            x_disable_meta=True,  # it would store the command line; load and memory are sent all the same
            silent=True,
        )
    except ValueError as fault:
        raise ConfigError(
            f"expected W&B settings but got: {_one_line(fault)} (environment variables WANDB_*). "
            "Hint: unset the one that is named."
        ) from fault


def _finish_seconds() -> float:
    return float(os.environ.get("WANDB_FINISH_TIMEOUT", FINISH_SECONDS))


def _faults() -> tuple[type[Exception], ...]:
    """What W&B raises when it, its service process or its server is gone; wandb is imported only where it is used."""
    import wandb

    return (wandb.errors.Error, OSError)


def _one_line(fault: Exception) -> str:
    return " ".join(str(fault).split())[:200]


@rank_zero_only  # type: ignore[untyped-decorator]
def _warn(message: str) -> None:
    logger.warning(message)
