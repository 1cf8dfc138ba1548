"""The choice of a LoRA's experts, from training questions, by chance or from a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from moe_tune.base.errors import DataError, require
from moe_tune.models.expert_subset import FROM_FILE, ExpertSubset
from moe_tune.routing import LayerTable, stable_top_k
from moe_tune.stats.ratios import FEWEST
from moe_tune.stats.shrinkage import LARGEST_WEIGHT, moment_weight, surplus_scores


def chosen_experts(
    subset: ExpertSubset, layers: Iterable[int], experts: int, tables: Mapping[int, LayerTable]
) -> dict[int, list[int]]:
    """Return the experts that a LoRA trains, by layer, in order of index; ties fall towards the lower index.

    Args:
        subset: What is asked for.
        layers: Layers whose experts the LoRA is on.
        experts: Experts of a layer, E.
        tables: How the training questions went, by layer; read by ``usage`` and ``accuracy`` alone.

    Raises:
        DataError: The file cannot be read, has no such columns, or not every expert.
        ConfigError: Its column is none of numbers, or it says that it is of other questions than those of training.

    Example:
        >>> chosen_experts(ExpertSubset("random", 0.5, seed=1), [0, 1], 4, {})
        {0: [0, 3], 1: [1, 3]}
    """
    if subset.by == "random":
        draw = torch.Generator().manual_seed(subset.seed)
        scores = {layer: torch.rand(experts, generator=draw) for layer in layers}
    elif subset.by in FROM_FILE:
        scores = _from_file(subset, list(layers), experts)
    elif subset.by == "usage":
        scores = {layer: tables[layer].chosen_E.double().cpu() for layer in layers}
    else:
        scores = {layer: _accuracy(tables[layer]) for layer in layers}
    count = subset.count(experts)
    return {layer: sorted(stable_top_k(score_E[None], count)[0].tolist()) for layer, score_E in scores.items()}


def _accuracy(table: LayerTable) -> Tensor:
    correct_E, chosen_E = table.correct_E.cpu().numpy(), table.chosen_E.cpu().numpy()
    weight = moment_weight(correct_E, chosen_E) or LARGEST_WEIGHT  # chance explains all: next to nothing is left
    score_E = torch.from_numpy(surplus_scores(correct_E, chosen_E, FEWEST, weight))
    # Many experts are as good as their layer, for want of questions: of these the more used ones come first.
    order_E = table.chosen_E.cpu().argsort(stable=True, descending=True)
    order_E = order_E[score_E[order_E].argsort(stable=True, descending=True)]
    return torch.empty_like(score_E).scatter_(0, order_E, -torch.arange(len(score_E), dtype=score_E.dtype))


def _from_file(subset: ExpertSubset, layers: list[int], experts: int) -> dict[int, Tensor]:
    assert subset.table is not None
    file, where = Path(subset.table), f"model.peft.experts.table, {subset.table}"
    hint = "one row per layer and expert."
    known = file.is_file() and file.suffix in (".csv", ".parquet")
    require(known, "a file .csv or .parquet", subset.table, where, hint)
    try:
        frame = pd.read_csv(file) if file.suffix == ".csv" else pd.read_parquet(file)
    except (OSError, ValueError) as fault:
        raise DataError(f"expected a table but got: {' '.join(str(fault).split())[:200]} ({where}).") from fault
    asked = subset.column or FROM_FILE[subset.by]
    sign, column = (-1.0, asked[1:]) if asked.startswith("-") else (1.0, asked)
    wanted = ["layer", "expert", column]
    if missing := [name for name in wanted if name not in frame]:
        raise DataError(f"expected columns {wanted} but {missing} are missing ({where}). Hint: column: NAME.")
    own = column not in ("layer", "expert") and pd.api.types.is_numeric_dtype(frame[column])
    require(own, "a column of numbers to order by", column, where, "column: NAME, or column: -NAME.")
    splits = sorted(set(map(str, frame["split"].unique())) - {"train"}) if "split" in frame else []
    hint = "a LoRA is trained on training questions, and its experts are chosen on them: ablate --split train."
    require(not splits, "figures of training questions", splits, where, hint)
    hint = "one row per layer and expert."
    found = {}
    for layer in layers:
        rows = frame[frame["layer"] == layer].set_index("expert")[column]
        if sorted(rows.index) != list(range(experts)) or bool(rows.isna().any()):
            raise DataError(
                f"expected a number for each of {experts} experts of layer {layer} but got {rows.count()} ({where}). "
                f"Hint: {hint}"
            )
        found[layer] = sign * torch.tensor(rows.sort_index().to_numpy(dtype="float64"))
    return found
