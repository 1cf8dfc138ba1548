"""FreezingProof: nothing but the heads has changed."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.base.errors import ModelError
from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner


class FreezingProof(Callback):
    """Hashes every tensor of the base model again when a fit or a calibration has ended, and prints both hashes.

    Args:
        directory: The run directory; its manifest keeps them.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare after training."""
        self._compare(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Compare after the calibration of a head with nothing to train."""
        if trainer.state.fn == "validate":
            self._compare(trainer, pl_module)

    def _compare(self, trainer: Trainer, tuner: LightningModule) -> None:
        assert isinstance(tuner, RouterTuner)
        after = tuner.routers.frozen_hashes()
        changed = sorted(name for name, value in after.items() if value != tuner.hashes_at_load.get(name))
        if changed:
            raise ModelError(
                f"expected the base model to stay as it was but {len(changed)} tensors changed: {changed[:4]}. "
                "Hint: a head must not write to the weight it is bound to."
            )
        if trainer.is_global_zero:
            frozen = {"tensors": len(after), "sha256_before_and_after": tuner.fingerprint}
            self.directory.update_manifest(frozen=frozen)
        rank_zero_info(f"frozen: {len(after)} tensors, sha256 {tuner.fingerprint} before and after")
