"""RunFiles: the configuration, the manifest and the start-up line of a run."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.callbacks.start_up_line import start_up_line
from moe_tune.data.revisions import revisions
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

    def on_fit_start(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write the files before training, a test or predicting."""
        line = start_up_line(pl_module)
        rank_zero_info(pl_module.examiner.answering.describe() if self.told else line)  # a fit's test has more splits
        self.told = True
        if self.directory.manifest:
            return
        self.directory.write_config(to_yaml(self.config))
        for logger in trainer.loggers:
            # Flat, so that the keys are those of the command line and of sweeps.
            logger.log_hyperparams(flat(self.config))
        quiz, gated = pl_module.quiz, pl_module.gated
        base = {key: getattr(pl_module.base, key) for key in ("path", "revision", "dtype")}
        self.directory.update_manifest(
            name=self.name,
            verb=trainer.state.fn.value,
            status="started",
            started=now(),
            head=type(pl_module.head).__name__,
            scope=pl_module.scope,
            layers=list(gated.layers),
            moe_layers=list(gated.gates),
            routing_dtype=pl_module.routing_dtype,
            experts_implementation=pl_module.opened.experts,
            trainable_parameters=gated.trained_numbers,
            losses={name: type(loss).__name__ for name, loss in pl_module.losses.items()},
            seed=quiz.seed,
            revisions=revisions(quiz),
            processes=trainer.world_size,
            base=base | {"frozen_sha256": gated.fingerprint},
            protocols={name: quiz.protocol_name(name) for name in ("validation", *quiz.test_names)},
            plugins=self.plugins,
            **environment(),
        )

    on_test_start = on_predict_start = on_fit_start

    def on_validation_start(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Write the files before a validation that no fit asked for."""
        if trainer.state.fn == "validate":
            self.on_fit_start(trainer, pl_module)

    def teardown(self, trainer: Trainer, pl_module: RouterTuner, stage: str) -> None:
        """Record what was read of the data, and what the calibration saw."""
        if not trainer.is_global_zero or not self.directory.manifest or trainer.interrupted:
            return
        table = pl_module.table
        if table is not None:
            seen = {"questions": table.questions, "questions_hash": table.questions_hash}
            self.directory.update_manifest(calibration=seen)
        if pl_module.lora_experts:
            self.directory.update_manifest(lora_experts=pl_module.lora_experts)
        ways = {**self.directory.manifest.get("answer_path", {}), **pl_module.examiner.answering.ways}
        self.directory.update_manifest(answer_path=ways)
        # A later verb reads other splits; what an earlier one recorded stays.
        data = self.directory.manifest.get("data", {})
        for key, value in pl_module.quiz.manifest.items():
            both = isinstance(value, dict) and isinstance(data.get(key), dict)
            data[key] = data[key] | value if both else value
        self.directory.update_manifest(data=data)


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
