"""The pretrained router's entropies beside an analysis, as the run that is analysed kept them."""

from pathlib import Path

import pandas as pd

from moe_tune.runs.answers import base_routing_file

COLUMNS = ("entropy_all_mean", "entropy_topk_mean")


def pretrained_entropy(home: Path, split: str, shots: int, layers: pd.DataFrame) -> pd.DataFrame:
    """Return the pretrained router's mean entropies, a row per scope and layer; empty where nothing fitting was kept.

    Args:
        home: The run directory.
        split: The split analysed.
        shots: Worked examples in the run's own prompts; its routing is of no other setting.
        layers: The layers table of the analysis: where it counted other tokens, the questions were others.
    """
    file = base_routing_file(home, split)
    if not file.is_file():
        return pd.DataFrame()
    kept = pd.read_parquet(file).groupby(["scope", "layer"], sort=False)[["tokens", *COLUMNS]].first().reset_index()
    same = layers.loc[layers["shots"] == shots, ["shots", "scope", "layer", "tokens"]]
    found = same.merge(kept, on=["scope", "layer", "tokens"])
    whole = found.groupby("scope")["layer"].transform("size") == found["scope"].map(same["scope"].value_counts())
    return found[whole].reset_index(drop=True)
