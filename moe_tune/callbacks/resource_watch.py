"""ResourceWatch: room for a checkpoint before the first one, a run directory that stays, and what was too large."""

from typing import Any

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_warn

from moe_tune.base.errors import ConfigError, ResourceError
from moe_tune.base.resources import free_bytes, out_of_memory
from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner

COPIES = 3
"""Checkpoints for which there should be room: the last, the best, and the one being written."""
BESIDE = 64 * 1024
"""Bytes of a checkpoint beside its tensors: configuration, manifest, loop state."""
MOMENTS = 2
"""Numbers that an optimiser keeps for each trained one, as Adam does."""


class ResourceWatch(Callback):
    """Looks after what a run needs of its machine.

    Args:
        directory: The run directory.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self._batch = ""

    def on_train_start(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Warn where few checkpoints have room.

        Raises:
            ResourceError: Not even one has.
        """
        if not trainer.is_global_zero or not trainer.checkpoint_callbacks:
            return
        head = sum(value.numel() * value.element_size() for value in pl_module.state_dict().values())
        trained = sum(one.numel() * one.element_size() for one in pl_module.parameters() if one.requires_grad)
        needed, free = head + MOMENTS * trained + BESIDE, free_bytes(self.directory.path)
        have = f"{free:,} bytes are free ({self.directory.path})"
        if free < needed:
            raise ResourceError(
                f"expected disk space for a checkpoint of about {needed:,} bytes but {have}. "
                "Hint: free some, or another --runs_root."
            )
        if free < COPIES * needed:
            rank_zero_warn(f"a checkpoint takes about {needed:,} bytes and few have room: {have}")

    def on_train_batch_start(self, trainer: Trainer, pl_module: RouterTuner, batch: Any, *_: Any) -> None:
        """Note how large a batch is."""
        self._batch = " and ".join(sorted(_sizes(batch)))

    on_validation_batch_start = on_test_batch_start = on_predict_batch_start = on_train_batch_start

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Stop where the run directory has been taken away: what is written next would be a part of a run.

        Raises:
            ConfigError: It has.
        """
        if trainer.is_global_zero and not (self.directory.path / "manifest.json").exists():
            raise ConfigError(
                f"expected the run directory to stay but it is gone ({self.directory.path}). "
                "Hint: run again, and see what cleans up there."
            )

    def on_validation_end(self, trainer: Trainer, *_: Any) -> None:
        """Look at the run directory before a checkpoint is written."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self.on_train_batch_end(trainer)

    def on_exception(self, trainer: Trainer, pl_module: RouterTuner, exception: BaseException) -> None:
        """Note beside a lack of memory how large the batch was."""
        if self._batch and out_of_memory(exception):
            exception.add_note(f"at a batch of {self._batch}")


def _sizes(batch: Any) -> set[str]:
    """Return how many rows of how many tokens a batch holds, each of its parts."""
    ids = getattr(batch, "input_ids_BS", None)
    if ids is not None:
        return {f"{ids.shape[0]} prompts, the longest of {ids.shape[1]} tokens"}
    if isinstance(batch, dict):
        return _sizes(tuple(batch.values()))
    return set().union(*map(_sizes, batch)) if isinstance(batch, list | tuple) else set()
