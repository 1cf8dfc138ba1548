"""FreezingProof: nothing but the heads has changed."""

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.rank_zero import rank_zero_info

from moe_tune.errors import ModelError
from moe_tune.module import RouterTuner
from moe_tune.runs.directory import RunDirectory


class FreezingProof(Callback):
    """Hashes every frozen tensor before and after a fit, prints both, and stops the run if they differ.

    Args:
        directory: The run directory; its manifest keeps the hashes.
    """

    def __init__(self, directory: RunDirectory) -> None:
        self.directory = directory
        self.before: dict[str, str] = {}

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hash the frozen tensors."""
        assert isinstance(pl_module, RouterTuner)
        self.before = pl_module.routers.frozen_hashes()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Hash them again.

        Raises:
            ModelError: A frozen tensor changed.
        """
        assert isinstance(pl_module, RouterTuner)
        after = pl_module.routers.frozen_hashes()
        changed = sorted(name for name in after if after[name] != self.before.get(name))
        if changed:
            raise ModelError(
                f"expected the base model to stay as it was but {len(changed)} tensors changed: {changed[:4]}. "
                "Hint: a head must not write to the weight it is bound to."
            )
        proof = pl_module.proof_of_freezing()
        if trainer.is_global_zero:
            self.directory.update_manifest(frozen={"tensors": len(after), "sha256_before_and_after": proof})
        rank_zero_info(f"frozen: {len(after)} tensors, sha256 {proof} before and after the fit")
