"""A checkpoint's head on a fresh model."""

from pathlib import Path

import torch

from moe_tune.gates.gated_model import GatedModel
from moe_tune.runs.checkpoint import CONFIG, RouterCheckpointIO, checked_folder
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.tuner.opening import open_model


def load_head(checkpoint: str | Path, device: str = "cpu") -> GatedModel:
    """Return a fresh base model with the heads, and the adapter, of a checkpoint on it.

    Args:
        checkpoint: The checkpoint's folder, such as ``runs/<name>/checkpoints/best.ckpt``.
        device: Where the model shall be.

    Raises:
        ModelError: It is no checkpoint, it was changed, or the base model is not the one it was made for.
    """
    folder = checked_folder(checkpoint)
    asked = FitSettings(["--config", str(folder / CONFIG)]).model.asked
    opened = open_model(asked, torch.device(device))
    opened.restore(RouterCheckpointIO().load_checkpoint(folder))
    return opened.gated
