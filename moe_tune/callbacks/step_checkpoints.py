"""StepCheckpoints: what an interrupted fit goes on from, saved between optimiser steps and when a signal asks."""

import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from moe_tune.base import preemption
from moe_tune.base.random_state import random_state, set_random_state
from moe_tune.base.ranks import several_ranks, summed_over_ranks
from moe_tune.runs.agent import sweep_id
from moe_tune.runs.checkpoint import LAST


class StepCheckpoints(Callback):
    """Saves ``checkpoints/last.ckpt`` between optimiser steps, so that the same command goes on bit for bit.

    A checkpoint is taken where a step is complete: its numbers are logged, its gradients used, and no validation is
    under way. Where one is due, it is taken before it, and the resumed fit validates first. The last one is taken when
    all is done. At SIGTERM, SIGUSR1 or Ctrl-C the fit saves and ends at the next such place; in a validation with what
    was taken before it.

    Args:
        folder: The folder of checkpoints.
        minutes: Time between two saves, above 0; ``None`` saves by steps alone.
        steps: Optimiser steps between two saves, from 1; ``None`` saves by time alone.
        at_end: What follows the last step, for a fit that was stopped between the two.
    """

    def __init__(
        self,
        folder: Path,
        minutes: float | None,
        steps: int | None,
        at_end: Callable[[Trainer, LightningModule], None] | None = None,
    ) -> None:
        self.path, self.minutes, self.steps, self.at_end = folder / LAST, minutes, steps, at_end
        self.validation_due = False
        self._counted = self._was_counted = self._ended = False
        self._loaded: dict[str, Any] | None = None
        self._before_validation: dict[str, Any] | None = None
        self._saved_at, self._saved_step = time.monotonic(), 0
        self._holding, self._held = ExitStack(), False
        self._trainer: Trainer | None = None

    # State

    def state_dict(self) -> dict[str, Any]:
        """Return every process's random generators, the last numbers, and what comes next: a validation, or the end."""
        states: list[Any] = [random_state()]
        if several_ranks():
            states = [None] * torch.distributed.get_world_size()
            torch.distributed.all_gather_object(states, random_state())
        numbers = {} if self._trainer is None else self._trainer.callback_metrics
        metrics = {key: float(value) for key, value in numbers.items()}
        stopped = self._trainer is not None and bool(self._trainer.should_stop)
        place = {"counted": self._counted, "stopped": stopped, "ended": self._ended}
        return {"random": states, "metrics": metrics, "validation_due": self.validation_due} | place

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep what was saved until training begins, which much comes before."""
        self._loaded = state_dict

    # Around Lightning's loops

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand around the loops of a fit."""
        if stage != "fit" or self._trainer is trainer or trainer.fast_dev_run:
            return
        self._trainer = trainer
        fit, epoch = trainer.fit_loop, trainer.fit_loop.epoch_loop
        run, begin, end = fit.run, fit.on_advance_start, fit.on_advance_end
        advance, validate = epoch.advance, epoch.on_advance_end

        def whole_fit() -> None:
            self._saved_at, self._saved_step = time.monotonic(), trainer.global_step
            fit.setup_data()
            loaded = self._loaded or {}
            if loaded.get("stopped"):
                trainer.should_stop = True
            over = fit.skip and bool(trainer.global_step)
            with self._holding:
                if over:
                    self._go_on(trainer, loaded)
                    if self.at_end is not None:
                        self.at_end(trainer, pl_module)  # training had ended, what follows had not
                run()
                if trainer.global_step and not (over and loaded.get("ended")):
                    self._ended = True
                    self._save(trainer, None)
                    self._ended = False

        def epoch_begins() -> None:
            if not self._held:
                self._held = True
                self._holding.enter_context(preemption.held())
            if self._loaded is not None:
                self._go_on(trainer, self._loaded)
                self._loaded = None
            begin()
            # Lightning leaves out what schedulers of epochs do at the end of the one that it goes on with.
            fit._restarting = False

        def batch(fetcher: Any) -> None:
            if self.validation_due:  # it comes first
                self.validation_due = epoch.val_loop.restarting = False
            else:
                advance(fetcher)

        def batch_ends(fetcher: Any) -> None:
            if epoch._skip_next_val and self._was_counted:  # Lightning ends a batch again whose validation was saved
                epoch._skip_next_val = False
                return
            whole = not epoch._should_accumulate()
            if whole and epoch._should_check_val_fx(fetcher) and not epoch._skip_next_val:
                self._note_before_validation(trainer)
                self._save_if_due(trainer, self._before_validation)
            validate(fetcher)
            self._before_validation = None
            if whole and not epoch._is_training_done:
                self._counted = True
                self._save_if_due(trainer)
                self._counted = False

        def epoch_ends() -> None:
            end()
            self._save_if_due(trainer)

        # No hook is called where a step is complete.
        around = {"run": whole_fit, "on_advance_start": epoch_begins, "on_advance_end": epoch_ends}
        for loop, methods in ((fit, around), (epoch, {"advance": batch, "on_advance_end": batch_ends})):
            for name, method in methods.items():
                setattr(loop, name, method)

    def _go_on(self, trainer: Trainer, state: dict[str, Any]) -> None:
        states = state.get("random", [])
        if len(states) == trainer.world_size:
            set_random_state(states[trainer.global_rank])
        trainer.callback_metrics.update({key: torch.tensor(value) for key, value in state.get("metrics", {}).items()})
        self.validation_due, self._was_counted = bool(state.get("validation_due")), bool(state.get("counted"))

    def _note_before_validation(self, trainer: Trainer) -> None:
        self.validation_due = True
        self._before_validation = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)
        self.validation_due = False

    def on_validation_batch_start(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """End a fit within a validation, which the resumed one begins anew."""
        if self._before_validation is not None and self._together(bool(preemption.asked())):
            self._save(trainer, self._before_validation)
            self._end(trainer)

    # Saving

    def _save_if_due(self, trainer: Trainer, state: dict[str, Any] | None = None) -> None:
        asked = self._together(bool(preemption.asked()))
        if asked:
            if not sweep_id():  # a run that a sweep stops does not go on
                self._save(trainer, state)
            self._end(trainer)
        if self._together(self._is_due(trainer)):
            self._save(trainer, state)

    def _is_due(self, trainer: Trainer) -> bool:
        if rank_zero_only.rank:  # the first process has the clock
            return False
        late = self.minutes is not None and time.monotonic() - self._saved_at >= 60 * self.minutes
        return late or (self.steps is not None and trainer.global_step - self._saved_step >= self.steps)

    def _save(self, trainer: Trainer, state: dict[str, Any] | None) -> None:
        if state is None:
            trainer.save_checkpoint(self.path, weights_only=False)
        else:
            trainer.strategy.save_checkpoint(state, self.path)
            trainer.strategy.barrier("StepCheckpoints")
        self._saved_at, self._saved_step = time.monotonic(), trainer.global_step

    def _end(self, trainer: Trainer) -> None:
        at = f"at step {trainer.global_step}" + (" in validation" if self._before_validation is not None else "")
        kept = "" if sweep_id() else f"; checkpoint {self.path}"
        raise preemption.Preempted(preemption.asked() or "another process", f"{at}{kept}")

    @staticmethod
    def _together(one: bool) -> bool:
        return bool(summed_over_ranks(torch.tensor(int(one))))
