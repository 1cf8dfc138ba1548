"""Layers whose router puts all probability on one expert: their gradient is gone, and they learn nothing more."""

from pathlib import Path

import pandas as pd

LEAST = 1e-6
"""Mean entropy over experts, in nats, below which a layer counts as saturated."""


def saturated_layers(run: Path, layers: list[int]) -> list[int]:
    """Return the layers of a run whose mean entropy over all experts was next to nothing in its last validation.

    Args:
        run: The run directory.
        layers: The layers with a head.
    """
    file = run / "routing" / "validation.parquet"
    if not file.is_file():
        return []
    frame = pd.read_parquet(file, columns=["scope", "layer", "entropy_all_mean"])
    of_answers = frame[(frame["scope"] == "answer") & frame["layer"].isin(layers)]
    entropy = of_answers.groupby("layer")["entropy_all_mean"].first()
    return [int(layer) for layer in entropy.index[entropy < LEAST]]
