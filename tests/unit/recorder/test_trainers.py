"""In a trainer: the same losses and weights with and without the recorder, and values beside the trainer's own."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch import Trainer as LightningTrainer
from lightning.pytorch.loggers.logger import Logger
from plain_training import hooks_of, rows, trained_model
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from moe_tune import RoutingLightningCallback, RoutingTrainerCallback, with_losses
from moe_tune.base.errors import ConfigError
from moe_tune.losses.global_load_balance import GlobalLoadBalanceLoss
from moe_tune.losses.load_balance import LoadBalanceLoss

pytest.importorskip("accelerate", reason="transformers' Trainer needs it")
TOKENS = 2 * 2 * 7
"""Of an optimiser step: two micro-batches of two rows of seven."""


class Spy(TrainerCallback):
    """What a callback that reports to somewhere finds in the logs."""

    def __init__(self):
        self.seen = []

    def on_log(self, args, state, control, logs=None, **kwargs):
        self.seen.append(dict(logs))


def trainer_of(folder, model, **options):
    options = {"logging_steps": 1, "eval_strategy": "steps", "eval_steps": 2} | options
    arguments = TrainingArguments(
        str(folder), per_device_train_batch_size=2, gradient_accumulation_steps=2, max_steps=4, learning_rate=1e-2,
        save_strategy="no", report_to="none", disable_tqdm=True, use_cpu=True, seed=0, **options,
    )  # fmt: skip
    return Trainer(model, arguments, train_dataset=rows(), eval_dataset=rows(4), callbacks=[Spy()])


def spied(trainer):
    return next(one for one in trainer.callback_handler.callbacks if isinstance(one, Spy)).seen


@pytest.mark.parametrize("checkpointing", [None, True, False], ids=["plain", "reentrant", "non_reentrant"])
def test_a_trainers_fit_is_the_same_bits(tmp_path, checkpointing):
    options = {}
    if checkpointing is not None:
        options = {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": checkpointing}}
    fits = []
    for with_recorder in (False, True):
        model, _ = trained_model("olmoe")
        trainer = trainer_of(tmp_path, model, **options)
        if with_recorder:
            trainer.add_callback(RoutingTrainerCallback(trainer))
        before = hooks_of(model)
        trainer.train()
        assert hooks_of(model) - before <= (1 if options else 0), "transformers leaves one for checkpointing"
        fits.append((model, trainer))
    (plain, alone), (model, trainer) = fits
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), model.parameters(), strict=True))
    for mine, other in zip(trainer.state.log_history, alone.state.log_history, strict=True):
        own = ("loss", "eval_loss", "grad_norm")
        assert {key: mine.get(key) for key in own} == {key: other.get(key) for key in own}
    logged = [one for one in trainer.state.log_history if "loss" in one]
    assert [one["routing/tokens"] for one in logged] == [TOKENS] * 4, "no evaluation, nothing twice"
    found = [one for one in spied(trainer) if "loss" in one]
    assert [one["routing/entropy_topk"] for one in found] == [one["routing/entropy_topk"] for one in logged]
    assert not any("routing/tokens" in one for one in spied(trainer) if "eval_loss" in one)


def test_a_trainer_is_asked_to_log_every_few_steps(tmp_path):
    model, _ = trained_model("olmoe")
    trainer = trainer_of(tmp_path, model, logging_strategy="no")
    trainer.add_callback(RoutingTrainerCallback(trainer, every=2))
    trainer.train()
    logged = [one for one in trainer.state.log_history if "routing/tokens" in one]
    assert [(one["step"], one["routing/tokens"]) for one in logged] == [(2, 2 * TOKENS), (4, 2 * TOKENS)]


def test_tables_go_to_wandb_where_it_runs(tmp_path, monkeypatch):
    import wandb

    class Run:
        logged = []

        def log(self, values):
            self.logged.append(values)

    monkeypatch.setattr(wandb, "run", Run())
    model, family = trained_model("olmoe")
    trainer = trainer_of(tmp_path, model)
    trainer.add_callback(RoutingTrainerCallback(trainer, detailed=True))
    trainer.train()
    assert [one["train/global_step"] for one in Run.logged] == [1, 2, 3, 4]
    assert [len(one["routing/layers"].data) for one in Run.logged] == [len(family.moe_layers(model))] * 4


def test_losses_follow_a_trainer(tmp_path):
    model, _ = trained_model("olmoe")
    balance = GlobalLoadBalanceLoss(weight=0.1, schedule="linear", weight_end=0.0)
    trainer = trainer_of(tmp_path, model)
    told = []
    with with_losses(model, {"balance": balance}) as added:
        trainer.add_callback(RoutingTrainerCallback(trainer, losses=added))
        watch = type("Watch", (TrainerCallback,), {"on_substep_end": lambda *_, **__: told.append(added.progress)})
        trainer.add_callback(watch())
        trainer.train()
    assert told == [0.0, 0.25, 0.5, 0.75]
    assert balance.state == {}, "counts are forgotten after every step"
    logged = [one for one in trainer.state.log_history if "loss" in one]
    assert all(0.9 < one["routing/balance"] < 8 for one in logged)


def test_a_callback_belongs_to_one_trainer(tmp_path):
    model, _ = trained_model("olmoe")
    trainer, other = trainer_of(tmp_path, model), trainer_of(tmp_path, model)
    trainer.add_callback(RoutingTrainerCallback(other))
    with pytest.raises(ConfigError, match="add_callback"):
        trainer.train()
    with pytest.raises(ConfigError, match="every"):
        RoutingTrainerCallback(trainer, every=0)


class Module(LightningModule):
    def __init__(self, model, fails=False):
        super().__init__()
        self.model, self.fails, self.losses = model, fails, []

    def training_step(self, batch, batch_idx):
        if self.fails and batch_idx == 1:
            raise ZeroDivisionError
        loss = self.model(**batch).loss
        self.losses.append(float(loss.detach()))
        return loss

    def validation_step(self, batch, batch_idx):
        self.model(**batch)

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


class ListLogger(Logger):
    """A logger that keeps what it gets."""

    name, version = "list", 0

    def __init__(self):
        super().__init__()
        self.values, self.tables = [], []

    def log_metrics(self, metrics, step=None):
        self.values.append((step, dict(metrics)))

    def log_hyperparams(self, *_, **__):
        pass

    def log_table(self, key, *, dataframe):
        self.tables.append((key, dataframe))


def fit(module, *callbacks, **options):
    logger = ListLogger()
    options = {"accumulate_grad_batches": 2, "log_every_n_steps": 1, "val_check_interval": 2} | options
    trainer = LightningTrainer(
        accelerator="cpu", max_epochs=1, logger=logger, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=list(callbacks), **options,
    )  # fmt: skip
    trainer.fit(module, DataLoader(rows(), 2), DataLoader(rows(4), 2))
    return logger


def test_a_lightning_fit_is_the_same_bits():
    plain, watched = (Module(trained_model("olmoe")[0]) for _ in range(2))
    fit(plain)
    before = hooks_of(watched)
    logger = fit(watched, RoutingLightningCallback(detailed=True))
    assert hooks_of(watched) == before
    assert watched.losses == plain.losses
    assert all(torch.equal(one, other) for one, other in zip(plain.parameters(), watched.parameters(), strict=True))
    logged = [(step, values) for step, values in logger.values if "routing/tokens" in values]
    assert [step for step, _ in logged] == [0, 1, 2, 3]
    assert [values["routing/tokens"] for _, values in logged] == [TOKENS] * 4
    assert [(key, len(frame)) for key, frame in logger.tables] == [("routing/layers", 3)] * 4


def test_a_lightning_fit_logs_every_few_steps_with_its_losses():
    module = Module(trained_model("olmoe")[0])
    with with_losses(module, {"balance": LoadBalanceLoss(weight=0.01, warmup=0.5)}) as added:
        logger = fit(module, RoutingLightningCallback(every=2, losses=added))
    logged = [(step, values) for step, values in logger.values if "routing/tokens" in values]
    assert [(step, values["routing/tokens"]) for step, values in logged] == [(1, 2 * TOKENS), (3, 2 * TOKENS)]
    assert all(values["routing/balance"] > 0.9 for _, values in logged)
    assert added.progress == 0.75


def test_the_hooks_go_where_a_lightning_fit_fails():
    module = Module(trained_model("olmoe")[0], fails=True)
    with pytest.raises(ZeroDivisionError):
        fit(module, RoutingLightningCallback())
    assert hooks_of(module) == 0
