"""What a run of the tuner does around its steps: prompts are prepared, heads calibrated, processes end together."""

from contextlib import ExitStack
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from moe_tune.base import preemption
from moe_tune.base.ranks import several_ranks, summed_over_ranks
from moe_tune.runs.checkpoint import COUNTED
from moe_tune.tuner.calibration import calibrate, training_table
from moe_tune.tuner.expert_choice import chosen_experts
from moe_tune.tuner.neighbours import EmbeddedQuestions, neighbour_routes
from moe_tune.tuner.oracle import sought_routing
from moe_tune.tuner.route_sampling import sampled_routes


class JointEnd(Callback):
    """Lets a signal to any process end all of them at the next batch of an evaluation that they begin.

    Lightning's own handlers are kept out: they save within the signal, or wait in it for what the others may never do.
    Between the steps of a fit it is ``StepCheckpoints`` that ends it.
    """

    def __init__(self) -> None:
        self._holding = ExitStack()

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Keep Lightning's handlers out; with several processes note a signal, which then ends all of them."""
        trainer._signal_connector.register_signal_handlers = lambda: None
        self._holding.close()
        if several_ranks():
            self._holding.enter_context(preemption.held())

    def _check(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        device = trainer.strategy.root_device
        inside = trainer.state.fn == "fit" and not trainer.sanity_checking
        asked = torch.tensor(int(bool(preemption.asked())), device=device)
        if several_ranks() and not inside and int(summed_over_ranks(asked)):
            raise preemption.Preempted(preemption.asked() or "another process", f"in {trainer.state.fn}")

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = _check

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Let signals act at once again."""
        self._holding.close()


class CountedValidations(Callback):
    """Keeps in every checkpoint how many validations of its fit there were, so that its own is found in the history."""

    def __init__(self) -> None:
        self.validations: int | None = 0
        self._went_on = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count nothing where a checkpoint that did not count is gone on with."""
        if trainer.global_step and not self._went_on:
            self.validations = None

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Count a validation before checkpoints are saved after it."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking and self.validations is not None:
            self.validations += 1

    def state_dict(self) -> dict[str, Any]:
        """Return the count."""
        return {} if self.validations is None else {COUNTED: self.validations}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a checkpoint's count."""
        self.validations, self._went_on = state_dict.get(COUNTED), True


class PreparedPrompts(Callback):
    """Builds or opens the prompt caches of the splits that a stage reads, before it begins."""

    def _prepare(self, trainer: Trainer, pl_module: Any) -> None:
        pl_module.examiner.prepare(pl_module.stage_splits)
        if trainer.state.fn == "fit" and pl_module.task != "quiz":
            with pl_module.examiner.numerics():
                pl_module.text_way.keep()

    on_fit_start = on_validation_start = on_test_start = on_predict_start = _prepare


class Calibration(Callback):
    """Fits heads, and hands losses what they read, from a pass over the training questions, before a stage begins.

    Heads that a checkpoint has brought keep their state; those that ask for it are fitted anew before later epochs.
    """

    def __init__(self) -> None:
        self._begun_with: dict[str, torch.Tensor] = {}

    def state_dict(self) -> dict[str, Any]:
        """Return the heads as they were when the epoch began, if a loss reads how neighbours were routed then."""
        return {"begun_with": self._begun_with} if self._begun_with else {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on within an epoch."""
        self._begun_with = state_dict.get("begun_with", {})

    def _calibrate(self, trainer: Trainer, pl_module: Any) -> None:
        waiting = pl_module.head.traits.needs_calibration and not pl_module.gated.calibrated
        if waiting:
            pl_module.table = calibrate(pl_module.examiner)
        elif trainer.state.fn == "fit" and pl_module.objective.wants_table and pl_module.table is None:
            pl_module.table = training_table(pl_module.examiner)

    @staticmethod
    def _choose_experts(pl_module: Any) -> None:
        """Let a LoRA train the experts it is asked to, chosen on training questions with the pretrained model."""
        adapter, gated = pl_module.gated.adapter, pl_module.gated
        if adapter is None or adapter.subset is None:
            return
        if adapter.subset.reads_training and pl_module.table is None:
            pl_module.table = training_table(pl_module.examiner)
        tables = {} if pl_module.table is None else pl_module.table.layers
        chosen = chosen_experts(adapter.subset, adapter.expert_layers(), gated.rule.num_experts, tables)
        adapter.restrict(chosen)
        pl_module.lora_experts = chosen

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Also seek the oracle's routing, sample routes and embed the training questions, for losses that read them."""
        self._calibrate(trainer, pl_module)
        self._choose_experts(pl_module)
        examiner, objective, layers = pl_module.examiner, pl_module.objective, pl_module.gated.layers
        if objective.search is not None and pl_module.oracle is None:
            pl_module.oracle = sought_routing(examiner, "train", layers, objective.search).routes
        if objective.sampling is not None and pl_module.routes is None:
            pl_module.routes = sampled_routes(examiner, "train", max(layers), objective.sampling)
        if objective.wants_neighbours and pl_module.embedded is None:
            pl_module.embedded = EmbeddedQuestions.of_training(examiner)

    def _get_ready(self, trainer: Trainer, pl_module: Any) -> None:
        self._calibrate(trainer, pl_module)
        # Scheduled heads stand where training does; at their end with nothing to train.
        if trainer.state.fn == "fit" or not pl_module.trains:
            pl_module.set_progress()

    on_validation_start = on_test_start = on_predict_start = _get_ready

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Make a fresh table of the training split, from the second epoch on, for heads that ask for it.

        Losses that read the neighbours' routing get it as it is now.
        """
        pl_module.neighbours, self._begun_with = None, {}
        self.on_train_batch_start(trainer, pl_module)
        if trainer.current_epoch and pl_module.head.traits.refreshes:
            table = training_table(pl_module.examiner, with_heads=True)
            for layer, head in pl_module.gated.heads.items():
                head.recalibrate(table.layers[layer])

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, *args: Any) -> None:
        """Look up the neighbours' routing where there is none yet: at an epoch's start, or resumed within one."""
        if not pl_module.objective.wants_neighbours or pl_module.neighbours is not None:
            return
        gated = pl_module.gated
        if not self._begun_with:
            self._begun_with = {name: value.clone() for name, value in gated.state().items()}
        with gated.other_state(self._begun_with, "checkpoint"):
            pl_module.neighbours = neighbour_routes(pl_module.examiner, pl_module.embedded, gated.layers)
