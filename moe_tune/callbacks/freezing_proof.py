"""FreezingProof: nothing but the heads has changed."""

from lightning.pytorch import Callback, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.runs.directory import RunDirectory
from moe_tune.tuner.router_tuner import RouterTuner


class FreezingProof(Callback):
    """Hashes every tensor of the base model again when a fit or a calibration has ended, and prints both hashes.

    Args:
        directory: The run directory; its manifest keeps them.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory

    def on_fit_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Compare after training."""
        tensors, known = pl_module.gated.prove_frozen(), pl_module.gated.fingerprint
        if trainer.is_global_zero:
            self.directory.update_manifest(frozen={"tensors": tensors, "sha256_before_and_after": known})
        rank_zero_info(f"frozen: {tensors} tensors, sha256 {known} before and after")

    def on_validation_end(self, trainer: Trainer, pl_module: RouterTuner) -> None:
        """Compare after the calibration of a head with nothing to train."""
        if trainer.state.fn == "validate":
            self.on_fit_end(trainer, pl_module)
