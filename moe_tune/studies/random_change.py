"""Random changes of a router as large as a trained one: what any change of that size does."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.settings.workbench import Workbench
from moe_tune.tuner.opening import open_model

DRAWS = 20
"""With none of so many as good as the trained change, p = 1 / 21."""


def random_changes(
    argv: list[str], plugins: dict[str, str], workbench: Workbench, checkpoint: Path, split: str
) -> NDArray[np.float64]:
    """Return the accuracy of heads whose tensors moved as far as training moved them, in random directions.

    Each tensor is the untrained one plus a Gaussian draw scaled to the Frobenius norm of its trained change.

    Args:
        argv: Arguments of the fit.
        plugins: sha256 of the plug-in files, by path.
        workbench: What the runs of this process share.
        checkpoint: The trained heads.
        split: The split they answer.

    Shape:
        - (draws,)
    """
    fit = FitSettings(argv, plugins)
    workbench.begin(fit.model)
    fit.model.base = workbench.base(fit.model.base)
    quiz = workbench.quiz(fit.configuration["data"], fit.datamodule)
    quiz.prepare(fit.model.tokenizer, fit.model.context_length)
    trainer = fit.trainer_for()
    opened = open_model(fit.model.asked, trainer.strategy.root_device)
    gated = opened.gated
    try:
        start = {name: value.clone() for name, value in gated.state().items()}
        opened.restore(RouterCheckpointIO().load_checkpoint(str(checkpoint)))
        moved = {name: value.clone() - start[name] for name, value in gated.state().items()}
        examiner = opened.examiner(quiz, numerics=trainer.precision_plugin.forward_context)
        for head in gated.heads.values():
            head.set_progress(1.0)
        accuracies = []
        for draw in range(DRAWS):
            gated.load_state(_drawn(start, moved, draw), "a random change")
            results = examiner.evaluate(split, examiner.results(split))
            accuracies.append(results.summary()["accuracy"])
    finally:
        gated.detach()
    return np.array(accuracies)


def _drawn(start: dict[str, Tensor], moved: dict[str, Tensor], seed: int) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    drawn = {}
    for name, value in start.items():
        if not value.is_floating_point():
            drawn[name] = value + moved[name]
            continue
        noise = torch.randn(value.shape, generator=generator, dtype=torch.float32)
        length = moved[name].float().norm()
        drawn[name] = value + (noise * (length.cpu() / noise.norm().clamp_min(1e-12))).to(value)
    return drawn
