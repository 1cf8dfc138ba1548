"""RunFiles: the configuration, the manifest and the start-up line of a run."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.callbacks.start_up_line import start_up_line
from moe_tune.runs.directory import RunDirectory, environment, now, to_yaml
from moe_tune.tuner.router_tuner import RouterTuner


class RunFiles(Callback):
    """Writes ``config.yaml`` and ``manifest.json`` once the model is loaded and everything measured is known.

    Args:
        directory: The run directory.
        config: The resolved configuration.
        name: Short name of the run in comparisons.
        plugins: sha256 of the user's plug-in files, by path.
    """

    def __init__(self, directory: RunDirectory, config: dict[str, Any], name: str, plugins: dict[str, str]) -> None:
        self.directory, self.config, self.name, self.plugins = directory, config, name, plugins
        self.told = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files before training."""
        self._write(trainer, pl_module, "fit")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files before a validation that no fit asked for."""
        if trainer.state.fn == "validate":
            self._write(trainer, pl_module, "validate")

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files before a test."""
        self._write(trainer, pl_module, "test")

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the files before predicting."""
        self._write(trainer, pl_module, "predict")

    def _write(self, trainer: Trainer, tuner: LightningModule, verb: str) -> None:
        assert isinstance(tuner, RouterTuner)
        line = start_up_line(tuner)
        rank_zero_info(tuner.examiner.answering.describe() if self.told else line)  # the test of a fit has more splits
        self.told = True
        if self.directory.manifest:
            return
        self.directory.write_config(to_yaml(self.config))
        for logger in trainer.loggers:
            # Flat, so that the keys are those of the command line and of sweeps.
            logger.log_hyperparams(flat(self.config))
        quiz, base, gated = tuner.quiz, tuner.base, tuner.gated
        self.directory.update_manifest(
            name=self.name,
            verb=verb,
            status="started",
            started=now(),
            head=type(tuner.head).__name__,
            scope=tuner.scope,
            layers=list(gated.layers),
            moe_layers=list(gated.gates),
            routing_dtype=tuner.routing_dtype,
            experts_implementation=tuner.opened.experts,
            trainable_parameters=sum(one.numel() for one in gated.trainable().values()),
            losses={name: type(loss).__name__ for name, loss in tuner.losses.items()},
            seed=quiz.seed,
            processes=trainer.world_size,
            base={
                "path": base.path,
                "revision": base.revision,
                "dtype": base.dtype,
                "frozen_sha256": gated.fingerprint,
            },
            protocols={name: quiz.protocol_name(name) for name in ("validation", *quiz.test_names)},
            plugins=self.plugins,
            **environment(),
        )

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Record what was read of the data, and what the calibration saw."""
        assert isinstance(pl_module, RouterTuner)
        if not trainer.is_global_zero or not self.directory.manifest or trainer.interrupted:
            return
        table = pl_module.table
        if table is not None:
            self.directory.update_manifest(
                calibration={"questions": table.questions, "questions_hash": table.questions_hash}
            )
        ways = {**self.directory.manifest.get("answer_path", {}), **pl_module.examiner.answering.ways}
        self.directory.update_manifest(answer_path=ways)
        # A later verb reads other splits; what an earlier one recorded stays.
        before = self.directory.manifest.get("data", {})
        now_read = pl_module.quiz.manifest
        merged = {
            key: {**before[key], **value} if isinstance(value, dict) and isinstance(before.get(key), dict) else value
            for key, value in now_read.items()
        }
        self.directory.update_manifest(data={**before, **merged})


def flat(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return a nested configuration with dotted keys; lists stay whole.

    Example:
        >>> flat({"model": {"scope": "answer", "layers": [0, 1]}})
        {'model.scope': 'answer', 'model.layers': [0, 1]}
    """
    pairs: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            pairs |= flat(value, f"{prefix}{key}.")
        else:
            pairs[f"{prefix}{key}"] = value
    return pairs
