"""A run folded into a stock checkpoint: the folder, what it says of itself, and what it changes."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from moe_tune.base.checkpoint_folder import CONFIG
from moe_tune.base.published import published, write_json
from moe_tune.export.card import README
from moe_tune.export.card_of_run import described_run, without_places
from moe_tune.export.fold import folded_gates
from moe_tune.export.fold_effect import FoldStep, as_plain, effect_table, fold_effect
from moe_tune.export.model_card import readme_of_fold
from moe_tune.export.stock_folder import prove_loaded, write_stock
from moe_tune.gates.frozen import hashes_of
from moe_tune.runs.checkpoint import RouterCheckpointIO
from moe_tune.settings.fit_settings import FitSettings
from moe_tune.settings.opened_runs import GPU
from moe_tune.tuner.opening import open_model

FOLDED = "folded.json"
"""What a folded checkpoint says of itself, for programs."""


@dataclass(frozen=True, slots=True)
class FoldedRun:
    """What was written.

    Args:
        gates: How many tensors of the base model were replaced.
        tensors: How many there are in all, each read back.
        layers: The layers that had a head.
        effect: What it changes, if that was measured.
    """

    gates: int
    tensors: int
    layers: list[int]
    effect: list[FoldStep]


def fold_run(checkpoint: Path, plugins: dict[str, str], target: Path, questions: int | None) -> FoldedRun:
    """Write a stock checkpoint that decides as a run's heads do, all of it or nothing.

    Args:
        checkpoint: What ``found_checkpoint`` returned.
        plugins: sha256 of the user's plug-in files, by path.
        target: The folder; an earlier one there is replaced.
        questions: Validation questions on which the change is measured; 0 measures nothing, ``None`` takes all.

    Raises:
        ConfigError: The head, or a part of it, is none that a stock gate can be.
        ModelError: The checkpoint was made for another base model, or what was written is not what was to be.
    """
    read = FitSettings(["--config", str(checkpoint / CONFIG)], plugins)
    gpu = read.settings.trainer.accelerator in GPU and torch.cuda.is_available()
    asked, device = read.model.asked, torch.device("cuda" if gpu else "cpu")
    asked.base.folder()  # a model without files is refused before it is made
    state = RouterCheckpointIO().load_checkpoint(checkpoint)
    opened = open_model(asked, device)
    opened.restore(state)
    opened.gated.train(False)
    gates, before = folded_gates(opened.gated), opened.gated.hashes_at_load
    card = described_run(checkpoint, state)
    del opened
    with published(target) as draft:
        draft.mkdir()
        tensors = write_stock(asked.base, gates.new, gates.before, draft)
        prove_loaded(asked.base, before, gates.new, draft)
        steps = [] if questions == 0 else fold_effect(asked, state, read.datamodule, draft, questions, device)
        table = effect_table(steps) if steps else None
        (draft / README).write_text(readme_of_fold(card, table, len(gates.layers)), encoding="utf-8")
        told: dict[str, Any] = {
            "folded": without_places(card.described),
            "gates": hashes_of(gates.new),
            "layers": gates.layers,
            "effect": as_plain(steps),
        }
        write_json(draft / FOLDED, told)
    return FoldedRun(len(gates.new), tensors, gates.layers, steps)
