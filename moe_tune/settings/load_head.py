"""A checkpoint's head on a fresh model."""

from pathlib import Path

import torch

from moe_tune.base.checkpoint_folder import CONFIG
from moe_tune.base.found import found_checkpoint
from moe_tune.gates.gated_model import GatedModel
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.tuner.opening import open_model


def load_head(run: str | Path, device: str = "cpu") -> GatedModel:
    """Return a fresh base model with the heads, and the adapter, of a run or a checkpoint on it.

    Args:
        run: The run's folder or bare name, whose best checkpoint is taken, or a checkpoint's folder.
        device: Where the model shall be.

    Raises:
        DataError: There is no such run.
        ModelError: It is no checkpoint, it was changed, or the base model is not the one it was made for.
    """
    folder = found_checkpoint(run)
    asked = FitSettings(["--config", str(folder / CONFIG)]).model.asked
    opened = open_model(asked, torch.device(device))
    opened.restore(RouterCheckpointIO().load_checkpoint(folder))
    return opened.gated
